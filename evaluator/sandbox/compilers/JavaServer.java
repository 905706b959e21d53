import com.sun.tools.javac.api.JavacTaskPool;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import javax.tools.Diagnostic;
import javax.tools.DiagnosticCollector;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaFileManager;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.StandardLocation;
import javax.tools.ToolProvider;

/**
 * Compiles Java programs one after the other in a process that stays warm.
 *
 * <pre>
 * stdin   4-byte big-endian length, JSON {"files": {name: text}}
 * stdout  4-byte big-endian length, JSON {"ok": bool, "diagnostics": text, "files": {name: base64}}
 * </pre>
 *
 * Nothing is written to disk and no code of a program runs: sources and classes live in memory, annotation processors
 * are off, and no class path or module path is searched. A task pool keeps the JDK's own symbols between programs and
 * forgets the programs' ones. Ends with standard input, and with exit code 3 when memory ran out (start another).
 */
public final class JavaServer {
    private static final int MAX_FRAME = 16 << 20;
    private static final int MAX_DIAGNOSTICS = 20;
    private static final List<String> OPTIONS = List.of("-proc:none", "-nowarn", "-Xlint:none", "-implicit:none", "-g:none");

    private final JavacTaskPool pool = new JavacTaskPool(1);
    // One for all programs: what the pool keeps of a task holds on to the file manager that it had.
    private final Memory memory = new Memory(
            ToolProvider.getSystemJavaCompiler().getStandardFileManager(null, Locale.ROOT, StandardCharsets.UTF_8));

    public static void main(String[] arguments) throws IOException {
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream out = new DataOutputStream(System.out);
        System.setOut(System.err);
        JavaServer server = new JavaServer();
        for (;;) {
            int length;
            try {
                length = in.readInt();
            } catch (IOException end) {
                return;
            }
            String answer;
            if (length < 0 || length > MAX_FRAME) {
                byte[] unused = new byte[1 << 16]; // a pipe cannot be skipped
                for (long left = length & 0xffffffffL; left > 0; ) {
                    int got = in.read(unused, 0, (int) Math.min(left, unused.length));
                    if (got < 0) return;
                    left -= got;
                }
                answer = answer(false, "a frame of " + (length & 0xffffffffL) + " bytes; at most " + MAX_FRAME, Map.of());
            } else {
                answer = server.answerTo(in.readNBytes(length));
            }
            byte[] bytes = answer.getBytes(StandardCharsets.UTF_8);
            out.writeInt(bytes.length);
            out.write(bytes);
            out.flush();
        }
    }

    private String answerTo(byte[] frame) {
        try {
            return compile(new Json(new String(frame, StandardCharsets.UTF_8)).files());
        } catch (OutOfMemoryError e) {
            Runtime.getRuntime().halt(3);
            return null;
        } catch (StackOverflowError e) {
            return answer(false, "the program is nested too deeply", Map.of());
        } catch (Throwable e) {
            return answer(false, e.toString(), Map.of());
        }
    }

    private String compile(Map<String, String> files) {
        List<JavaFileObject> sources = new ArrayList<>();
        files.forEach((name, text) -> sources.add(new Source(name, text)));
        DiagnosticCollector<JavaFileObject> found = new DiagnosticCollector<>();
        memory.compiled.clear();
        boolean ok = !sources.isEmpty()
                && pool.getTask(null, memory, found, OPTIONS, null, sources, task -> task.call());
        StringBuilder text = new StringBuilder();
        int shown = 0;
        for (Diagnostic<? extends JavaFileObject> one : found.getDiagnostics()) {
            if (one.getKind() != Diagnostic.Kind.ERROR || shown++ == MAX_DIAGNOSTICS) continue;
            JavaFileObject source = one.getSource();
            if (source != null) text.append(((Source) source).name).append(':').append(one.getLineNumber()).append(": ");
            text.append("error: ").append(one.getMessage(Locale.ROOT)).append('\n');
        }
        return answer(ok, text.toString(), ok ? memory.classes() : Map.of());
    }

    private static String answer(boolean ok, String diagnostics, Map<String, byte[]> files) {
        StringBuilder text = new StringBuilder("{\"ok\":").append(ok).append(",\"diagnostics\":");
        Json.quote(text, diagnostics);
        text.append(",\"files\":{");
        String comma = "";
        for (Map.Entry<String, byte[]> file : files.entrySet()) {
            text.append(comma);
            Json.quote(text, file.getKey());
            text.append(":\"").append(Base64.getEncoder().encodeToString(file.getValue())).append('"');
            comma = ",";
        }
        return text.append("}}").toString();
    }

    private static final class Source extends SimpleJavaFileObject {
        final String name;
        private final String text;

        Source(String name, String text) {
            super(URI.create("memory:///" + name), Kind.SOURCE);
            if (!name.matches("[A-Za-z_$][A-Za-z0-9_$]*\\.java")) throw new IllegalArgumentException("file name " + name);
            this.name = name;
            this.text = text;
        }

        @Override
        public CharSequence getCharContent(boolean ignoreEncodingErrors) {
            return text;
        }
    }

    private static final class Compiled extends SimpleJavaFileObject {
        final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        Compiled(String className) {
            super(URI.create("memory:///" + className.replace('.', '/') + ".class"), Kind.CLASS);
        }

        @Override
        public OutputStream openOutputStream() {
            return bytes;
        }
    }

    /** The JDK's classes for reading; everything else neither found nor written outside memory. */
    private static final class Memory extends ForwardingJavaFileManager<JavaFileManager> {
        private final Map<String, Compiled> compiled = new LinkedHashMap<>();

        Memory(JavaFileManager platform) {
            super(platform);
        }

        Map<String, byte[]> classes() {
            Map<String, byte[]> all = new LinkedHashMap<>();
            compiled.forEach((name, one) -> all.put(name.replace('.', '/') + ".class", one.bytes.toByteArray()));
            return all;
        }

        @Override
        public Iterable<JavaFileObject> list(
                Location location, String packageName, java.util.Set<JavaFileObject.Kind> kinds, boolean recurse)
                throws IOException {
            if (location == StandardLocation.CLASS_PATH || location == StandardLocation.SOURCE_PATH) return List.of();
            return super.list(location, packageName, kinds, recurse);
        }

        @Override
        public boolean hasLocation(Location location) {
            return location != StandardLocation.SOURCE_PATH
                    && location != StandardLocation.ANNOTATION_PROCESSOR_PATH
                    && super.hasLocation(location);
        }

        @Override
        public JavaFileObject getJavaFileForOutput(
                Location location, String className, JavaFileObject.Kind kind, FileObject sibling) {
            Compiled one = new Compiled(className);
            compiled.put(className, one);
            return one;
        }

        @Override
        public FileObject getFileForOutput(Location location, String packageName, String name, FileObject sibling)
                throws IOException {
            throw new IOException("no files");
        }
    }

    /** As much JSON as the frames need: objects of strings. */
    private static final class Json {
        private final String text;
        private int at;

        Json(String text) {
            this.text = text;
        }

        Map<String, String> files() {
            expect('{');
            if (!string().equals("files")) throw new IllegalArgumentException("a frame is {\"files\": {name: text}}");
            expect(':');
            expect('{');
            Map<String, String> files = new LinkedHashMap<>();
            if (peek() != '}') {
                do {
                    String name = string();
                    expect(':');
                    files.put(name, string());
                } while (accept(','));
            }
            expect('}');
            expect('}');
            return files;
        }

        private char peek() {
            while (at < text.length() && text.charAt(at) <= ' ') at++;
            if (at == text.length()) throw new IllegalArgumentException("the frame ends early");
            return text.charAt(at);
        }

        private boolean accept(char wanted) {
            if (peek() != wanted) return false;
            at++;
            return true;
        }

        private void expect(char wanted) {
            if (!accept(wanted)) throw new IllegalArgumentException("expected " + wanted + " at character " + at);
        }

        private String string() {
            expect('"');
            StringBuilder value = new StringBuilder();
            for (;;) {
                char c = text.charAt(at++);
                if (c == '"') return value.toString();
                if (c != '\\') {
                    value.append(c);
                    continue;
                }
                c = text.charAt(at++);
                switch (c) {
                    case 'n' -> value.append('\n');
                    case 't' -> value.append('\t');
                    case 'r' -> value.append('\r');
                    case 'b' -> value.append('\b');
                    case 'f' -> value.append('\f');
                    case 'u' -> {
                        value.append((char) Integer.parseInt(text.substring(at, at + 4), 16));
                        at += 4;
                    }
                    default -> value.append(c);
                }
            }
        }

        static void quote(StringBuilder out, String value) {
            out.append('"');
            for (char c : value.toCharArray()) {
                if (c == '"' || c == '\\') out.append('\\').append(c);
                else if (c < ' ' || Character.isSurrogate(c)) out.append(String.format("\\u%04x", (int) c));
                else out.append(c);
            }
            out.append('"');
        }
    }
}
