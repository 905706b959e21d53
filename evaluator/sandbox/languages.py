"""What is known of each language: files, tools, how to compile and how to run. No file is read and no process started.

    compose(source, tests) -> Program --compile_argv--> artefacts --run_argv, environment--> the process

Everything works in a working directory, the only one that can be written, that holds the program's files under the
names given here; with HOME set to it, PATH as below, without a network and, but for C#, without /proc (mono ends at
once without the real /proc/self/maps). The address space must not be
limited for node, the JVM and mono: they reserve much more than they use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from evaluator.sandbox import drivers
from evaluator.sandbox.drivers import FAILED_EXIT, Program, RefusedProgram
from evaluator.sandbox.job import LanguageName, SuffixTests

__all__ = ["FAILED_EXIT", "LANGUAGES", "PATH", "Language", "Program", "RefusedProgram", "classify"]

PATH = "/usr/local/bin:/usr/bin:/bin"
NODE_MODULES = "/usr/local/lib/node_modules"
MONO = "/usr/lib/mono/4.5"


def classify(exit_code: int | None, signal: int | None, stderr: str) -> Literal["fail", "error"]:
    """What a run of suffix tests without a nonce was: a failed assertion, or else a crash or an early end."""
    del stderr  # every driver says it with its exit code
    return "fail" if signal is None and exit_code == FAILED_EXIT else "error"


@dataclass(frozen=True)
class Language:
    """One language. `{work}`: the working directory. `{toolchain}`: where toolchain.prepare() put what it built.

    tools: names to be found on PATH, or absolute paths. compile: None if there is nothing to compile; in it stands
    `{sources}` for the names of the program's sources. artefacts: glob patterns of what compilation leaves.
    server: command of the warm compiler (evaluator/sandbox/compilers/) that may compile in its place.
    """

    name: LanguageName
    source_name: str
    tools: tuple[str, ...]
    run: tuple[str, ...]
    compose_suffix: Callable[[str, SuffixTests], Program]
    compile: tuple[str, ...] | None = None
    artefacts: tuple[str, ...] = ()
    server: tuple[str, ...] | None = None
    variables: dict[str, str] = field(default_factory=dict)
    overhead_mb: int = 0
    entry: Callable[[str], str] | None = None
    prepare_source: Callable[[str], str] | None = None

    def compose(self, source: str, tests: SuffixTests | None) -> Program:
        """The files to write. RefusedProgram if the program replaces what the tests rely on."""
        if tests is not None:
            return self.compose_suffix(source, tests)
        text = self.prepare_source(source) if self.prepare_source else source
        entry = self.entry(source) if self.entry else self.source_name
        name = self.source_name
        if self.name == "java":
            name = f"{entry.rpartition('.')[2]}.java"
        if self.compile is None:
            return Program({}, {name: text}, entry)
        return Program({name: text}, {}, entry)

    def compile_argv(self, program: Program, toolchain: str) -> list[str] | None:
        """Compiles `program.sources`, in the working directory. `toolchain`: where toolchain.prepare() built."""
        if self.compile is None:
            return None
        units = [name for name in program.sources if not name.endswith(".hpp")]
        if self.name == "cpp" and "main.cpp" in units:
            units = ["main.cpp"]
        argv: list[str] = []
        for word in self.compile:
            argv += units if word == "{sources}" else [word.replace("{toolchain}", toolchain)]
        if self.name == "cpp" and "<openssl/" in program.sources["program.cpp"]:
            argv.append("-lcrypto")
        if self.name == "csharp" and program.needs_nonce:
            argv.append("-main:ZqDriver")
        return argv

    def run_argv(self, program: Program, memory_mb: int) -> list[str]:
        """Starts the program within `memory_mb` for its process."""
        heap = str(self.heap_mb(memory_mb))
        return [word.replace("{heap}", heap).replace("{entry}", program.entry) for word in self.run]

    def environment(self, work: str, toolchain: str, memory_mb: int) -> dict[str, str]:
        """All variables that the process sees, compilers too."""
        heap = str(self.heap_mb(memory_mb))
        mine = {n: v.replace("{heap}", heap).replace("{toolchain}", toolchain) for n, v in self.variables.items()}
        return {"PATH": PATH, "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8", **mine}

    def heap_mb(self, memory_mb: int) -> int:
        """What the run-time system may give the program, so that it says so before the kernel kills it."""
        return max(8, memory_mb - min(self.overhead_mb, memory_mb // 2))


# --- Java: which class to start --------------------------------------------------------------------------------------

_NOT_CODE = re.compile(
    r'/\*.*?\*/|//[^\n]*|"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL
)
_TOKEN = re.compile(r"\b(?:class|interface|enum|record)\s+([A-Za-z_$][\w$]*)|([{}])|\b(?:void)\s+main\s*\(|\bpublic\b")
_PACKAGE = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)


def java_main_class(source: str) -> str:
    """The top-level class that declares main, else the public one, else the first, else Main."""
    text = _NOT_CODE.sub(" ", source)
    depth, current, public = 0, "", False
    first, of_public, of_main = "", "", ""
    for token in _TOKEN.finditer(text):
        name, brace = token[1], token[2]
        if name and depth == 0:
            current, first = name, first or name
            of_public = of_public or (name if public else "")
            public = False
        elif brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
        elif token[0] == "public":
            public = depth == 0
        elif not name and depth == 1:
            of_main = of_main or current
    # The file has the name of its public class, which javac asks for; main is looked for in it first.
    simple = of_main or of_public or first or "Main"
    package = _PACKAGE.search(text)
    return f"{package[1]}.{simple}" if package else simple


def _java_source(source: str) -> str:
    """Without `public` on the other top-level classes: the file is named after the one with main."""
    main = java_main_class(source).rpartition(".")[2]
    public = re.compile(
        rf"^public\s+((?:(?:final|abstract|strictfp|sealed|non-sealed)\s+)*(?:class|interface|enum|record)\s+(?!{re.escape(main)}\b))",
        re.M,
    )
    return public.sub(r"\1", source)


# --- the table -------------------------------------------------------------------------------------------------------

_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
    "-XX:-UseContainerSupport",
    "-XX:+DisableAttachMechanism",
)
# JavaServer uses the compiler's own pool of tasks, which the JDK does not export.
JAVA_EXPORTS = ("--add-exports", "jdk.compiler/com.sun.tools.javac.api=ALL-UNNAMED")
_CPP_FLAGS = ("-std=gnu++17", "-O2")
LINK_FLAGS = ("-pipe", "-fuse-ld=gold", "-fno-use-linker-plugin")


def _python(source: str, tests: SuffixTests) -> Program:
    raise RefusedProgram("tests of kind 'suffix' are not for python; use 'assert' or 'asserts'")


LANGUAGES: dict[LanguageName, Language] = {
    language.name: language
    for language in (
        Language("python", "program.py", ("python3",), ("python3", "-I", "{entry}"), _python),
        Language(
            "cpp",
            "program.cpp",
            ("g++",),
            ("./program",),
            drivers.cpp,
            compile=(
                "g++",
                *_CPP_FLAGS,
                *LINK_FLAGS,
                "-w",
                "-I{toolchain}",
                "-include",
                "zq_all.hpp",
                "{sources}",
                "-o",
                "program",
            ),
            artefacts=("program",),
            prepare_source=drivers.cpp_headers,
        ),
        Language(
            "java",
            "Main.java",
            ("java", "javac"),
            ("java", *_JVM, "-Xss64m", "-Xmx{heap}m", "-ea", "-cp", ".", "{entry}"),
            drivers.java,
            compile=(
                "javac",
                "-J-XX:+UseSerialGC",
                "-J-XX:TieredStopAtLevel=1",
                "-J-XX:-UsePerfData",
                "-proc:none",
                "-nowarn",
                "-encoding",
                "UTF-8",
                "-d",
                ".",
                "{sources}",
            ),
            artefacts=("**/*.class",),
            server=("java", *_JVM, *JAVA_EXPORTS, "-Xmx256m", "-cp", "{toolchain}", "JavaServer"),
            variables={"LD_LIBRARY_PATH": "{toolchain}/jdk-lib"},  # the JVM finds its libraries through /proc
            overhead_mb=160,
            entry=java_main_class,
            prepare_source=_java_source,
        ),
        Language(
            "javascript",
            "program.js",
            ("node",),
            ("node", "--max-old-space-size={heap}", "{entry}"),
            drivers.javascript,
            overhead_mb=96,
        ),
        Language(
            "typescript",
            "program.ts",
            ("node", f"{NODE_MODULES}/typescript/lib/typescript.js"),
            ("node", "--max-old-space-size={heap}", "{entry}"),
            drivers.typescript,
            compile=("node", "{toolchain}/ts_server.js", "--once", "{sources}"),
            artefacts=("*.js",),
            server=("node", "--max-old-space-size=512", "{toolchain}/ts_server.js"),
            overhead_mb=96,
            entry=lambda source: "program.js",
        ),
        Language(
            "csharp",
            "program.cs",
            ("mono", f"{MONO}/mcs.exe", f"{MONO}/System.Numerics.dll"),
            ("mono", "{entry}"),
            drivers.csharp,
            compile=(
                "mono",
                f"{MONO}/mcs.exe",
                "-d:DEBUG",
                "-r:System.Numerics.dll",
                "-nologo",
                "-warn:0",
                "-out:program.exe",
                "{sources}",
            ),
            artefacts=("program.exe",),
            variables={"MONO_GC_PARAMS": "max-heap-size={heap}m", "MONO_DISABLE_SHARED_AREA": "1"},
            overhead_mb=64,
            entry=lambda source: "program.exe",
        ),
        Language(
            "php",
            "program.php",
            ("php",),
            (
                "php",
                "-n",
                "-d",
                "extension=ctype",
                "-d",
                "extension=mbstring",
                "-d",
                "display_startup_errors=0",
                "-d",
                "display_errors=stderr",
                "-d",
                "html_errors=0",
                "-d",
                "zend.assertions=1",
                "-d",
                "assert.exception=1",
                "-d",
                "memory_limit={heap}M",
                "{entry}",
            ),
            drivers.php,
            overhead_mb=32,
        ),
        Language("bash", "program.sh", ("bash",), ("bash", "--norc", "--noprofile", "{entry}"), drivers.bash),
    )
}
