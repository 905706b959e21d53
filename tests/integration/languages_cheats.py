"""Programs for tests/integration/test_languages_bare.py: per language one problem (double a number) with a right, a
wrong and a crashing solution, and programs that try to pass without solving it."""

from __future__ import annotations

from dataclasses import dataclass

from evaluator.sandbox.job import LanguageName


@dataclass(frozen=True)
class Pair:
    """Solutions of one problem and its tests."""

    right: str
    wrong: str
    crash: str
    tests: str


CPP = "#include <stdio.h>\n#include <vector>\nusing namespace std;\nint twice(int n){ return %s; }\n"
JAVA = "import java.util.*;\nclass Solution {\n public int twice(int n) {\n  return %s;\n }\n%s}\n"
JS = "const twice = (n) => {\n  %s\n}\n"
TS = "function twice(n: number): number {\n  %s\n}\n"
CS = (
    "using System;\nusing System.Diagnostics;\nusing System.Linq;\n"
    "class Problem {\n    public static int Twice(int n) {\n        %s\n"
)
PHP = "<?php\nfunction twice($n) {\n    %s\n}\n"
BASH = "#!/bin/bash\ntwice() {\n    %s\n"

PAIRS: dict[LanguageName, Pair] = {
    "cpp": Pair(
        CPP % "2 * n",
        CPP % "n",
        CPP % "*(volatile int *)0",
        "\n#undef NDEBUG\n#include<assert.h>\nint main(){\n assert (twice(2) == 4);\n assert (twice(5) == 10);\n}\n",
    ),
    "java": Pair(
        JAVA % ("2 * n", ""),
        JAVA % ("n", ""),
        JAVA % ("n / 0", ""),
        "public class Main {\n public static void main(String[] args) {\n  Solution s = new Solution();\n"
        "  List<Boolean> correct = Arrays.asList(s.twice(2) == 4, s.twice(5) == 10);\n"
        "  if (correct.contains(false)) { throw new AssertionError(); }\n }\n}\n",
    ),
    "javascript": Pair(
        JS % "return 2 * n",
        JS % "return n",
        JS % "return n.x.y",
        "const testTwice = () => {\n  console.assert(twice(2) === 4)\n"
        "  console.assert(JSON.stringify([twice(5)]) === JSON.stringify([10]))\n}\ntestTwice()\n",
    ),
    "typescript": Pair(
        TS % "return 2 * n;",
        TS % "return n;",
        TS % "return (n as any).x.y;",
        "declare var require: any;\nconst assert = require('node:assert');\n\nfunction test() {\n"
        "  let candidate = twice;\n  assert.deepEqual(candidate(2),4);\n  assert.deepEqual(candidate(5),10);\n}\n"
        "\ntest();",
    ),
    "csharp": Pair(
        CS % "return 2 * n;",
        CS % "return n;",
        CS % "return n / (n - n);",
        "    }\n    public static void Main(string[] args) {\n    Debug.Assert(Twice((2)) == (4));\n"
        "    Debug.Assert(Twice((5)) == (10));\n    }\n\n}\n",
    ),
    "php": Pair(
        PHP % "global $factor; return $factor * $n;" + "$factor = 2;\n",
        PHP % "return $n;",
        PHP % "return nothing($n);",
        "function candidate(...$args) {\n    return twice(...$args);\n}\n\nfunction test(): void {\n"
        '    if (candidate(2) !== 4) { throw new Exception("Test failed!"); }\n'
        '    if (candidate(5) !== 10) { throw new Exception("Test failed!"); }\n}\n\ntest();',
    ),
    "bash": Pair(
        BASH % "helper() { echo $(($1 * 2)); }; helper $1",
        BASH % "echo $1",
        BASH % "echo $(( $1 * 2 ",
        '}\n\ncandidate() {\n    twice "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "2") = "4" ]]\n'
        '    [[ $(candidate "5") = "10" ]]\n}\n\nrun_test\n',
    ),
}

CHEATS: dict[LanguageName, dict[str, str]] = {
    "cpp": {
        "exit": "#include <cstdlib>\n" + CPP % "(exit(0), 1)",
        "_exit": "#include <unistd.h>\n" + CPP % "(_exit(0), 1)",
        "exit in a constructor": CPP % "1" + "#include <cstdlib>\nstruct E { E() { exit(0); } } e;\n",
        "reads the nonce in a constructor": CPP % "1" + "#include <unistd.h>\n"
        "struct E { E() { char b[64] = {}; long n = read(0, b, 33); if (n > 0) { write(1, b, n); _exit(0); } } } e;\n",
        "reads the nonce before constructors": CPP % "1" + "#include <unistd.h>\nstatic void early() { char b[64]; "
        "long n = read(0, b, 33); if (n > 0) { write(1, b, n); _exit(0); } }\n"
        '__attribute__((section(".preinit_array"), used)) static void (*p)() = early;\n',
        "macro assert": "#define assert(x)\n" + CPP % "1",
        "spliced macro": CPP % "n" + "#def\\\nine /* of */ twice(x) (2 * (x))\n",
        "digraph macro": CPP % "n" + "%: /**/define twice(x) (2 * (x))\n",
        "own __assert_fail": CPP
        % "1"
        + '#include <cstdlib>\nextern "C" void __assert_fail(const char *, const char *, '
        "unsigned, const char *) noexcept { exit(0); }\n",
        "own write and exit": CPP % "1" + '#include <csignal>\nextern "C" long write(int, const void *, unsigned long) '
        '{ return 0; }\nextern "C" void abort() noexcept { raise(SIGKILL); __builtin_unreachable(); }\n',
        "handlers": "#include <csignal>\n#include <cstdlib>\n" + CPP % "(signal(SIGABRT, [](int) { _Exit(0); }), n)",
        "atexit": "#include <cstdlib>\n" + CPP % '(atexit([] { puts("ok"); _Exit(0); }), n)',
        "throws": CPP % "(throw 4, 1)",
        "does not compile: open comment": CPP % "n" + "/*",
        "does not compile: open #if": CPP % "n" + "#if 0\n",
        "does not compile: own main": CPP % "n" + "int main() { return 0; }\n",
    },
    "java": {
        "exit": JAVA % ("n", " static { System.exit(0); }\n"),
        "halt": JAVA % ("n", " { Runtime.getRuntime().halt(0); }\n"),
        "reads stdin": JAVA
        % (
            "n",
            " static { Scanner s = new Scanner(System.in); if (s.hasNext()) "
            "{ System.out.println(s.next()); System.exit(0); } }\n",
        ),
        "own Arrays": JAVA % ("n", "")
        + "class Arrays { static List<Boolean> asList(boolean... b) { return List.of(true); } }\n",
        "own Arrays, escaped": JAVA % ("n", "")
        + "class Arr\\u0061ys { static List<Boolean> asList(boolean... b) { return List.of(true); } }\n",
        "own AssertionError": JAVA % ("n", "")
        + "class AssertionError extends RuntimeException { { System.exit(0); } }\n",
        "calls the driver": JAVA % ("n", " static { try { ZqDriver.main(new String[0]); } catch (Exception e) {} }\n"),
        "does not compile: own Main": JAVA % ("n", "") + "class Main { public static void main(String[] a) {} }\n",
        "does not compile: own driver": JAVA % ("n", "")
        + "class ZqDriver { public static void main(String[] a) {} }\n",
        "open comment": JAVA % ("n", "") + "/* ",
        "another thread": JAVA
        % (
            "n",
            " static { Thread t = Thread.currentThread(); new Thread(() -> "
            "{ t.interrupt(); System.exit(0); }).start(); }\n",
        ),
    },
    "javascript": {
        "exit": JS % "process.exit(0)",
        "exit code": "process.exitCode = 0; process.on('exit', () => process.exit(0));" + JS % "return n",
        "own console": "console = { assert() {} };" + JS % "return n",
        "own assert": "console.assert = () => {};" + JS % "return n",
        "constant console": "const console = { assert() {} };" + JS % "return n",
        "own JSON": "JSON.stringify = () => '';" + JS % "return n == 2 ? 4 : n",
        "constant JSON": "const JSON = { stringify: () => '' };" + JS % "return n == 2 ? 4 : n",
        "toJSON": "Array.prototype.toJSON = () => 1;" + JS % "return n == 2 ? 4 : n",
        "toJSON of all": "Object.defineProperty(Object.prototype, 'toJSON', { value: () => 1 });"
        + JS % "return n == 2 ? 4 : n",
        "toJSON set": "Object.prototype.toJSON = () => 1;" + JS % "return n == 2 ? 4 : n",
        "own writes": "require('fs').writeSync = () => 33; process.stdout.write = () => true;" + JS % "return n",
        "swallows errors": "process.on('uncaughtException', () => process.exit(0));" + JS % "return n",
        "emits": JS % "process.emit('beforeExit'); return n",
        "open comment": JS % "return n" + "/*",
        "open template": JS % "return n" + "`",
        "inspector": "const i = require('inspector'); const s = new i.Session(); s.connect(); process.exit(0);"
        + JS % "return n",
        "heap": "require('node:v8').writeHeapSnapshot();" + JS % "return n",
        "builtin module": "process.getBuiltinModule('inspector');" + JS % "return n",
        "binding": "process.binding('inspector');" + JS % "return n",
        "reads the tests": JS % "return eval(require('fs').readFileSync('tests.js', 'utf8').match(/=== (\\d+)/)[1])",
        "caller": JS % "return n" + "function f() { return f.caller; }\ntwice.valueOf = f;",
        "reads stdin": "console.log(require('fs').readFileSync(0, 'utf8')); process.exit(0);" + JS % "return n",
        "Map": "Map.prototype.get = () => true; Array.prototype.every = () => true;" + JS % "return n",
    },
    "typescript": {
        "exit": "declare var process: any;\n" + TS % "process.exit(0); return n;",
        "own assert": "declare var require: any;\nrequire('assert').deepEqual = () => {};\n" + TS % "return n;",
        "patched loader": "declare var require: any;\nrequire('module')._load = () => ({ deepEqual() {} });\n"
        + TS % "return n;",
        "require": "(globalThis as any).require = () => ({ deepEqual() {} });\n" + TS % "return n;",
        "catches": "process.on('uncaughtException', () => process.exit(0));\n" + TS % "return n;",
        "does not compile: types": TS % "return 'four';",
    },
    "csharp": {
        "exit": CS % "Environment.Exit(0); return n;",
        "listeners": CS % "Debug.Listeners.Clear(); return n;",
        "own Debug": CS % "return n; }\n static class Debug { public static void Assert(bool b) {} }\n void More() {",
        "static constructor": CS % "return n;\n }\n static Problem() { Environment.Exit(0); }\n static void More() {",
        "reads the nonce": CS % "return n;\n }\n static Problem() { var s = Console.In.ReadLine(); if (s != null) { "
        "Console.WriteLine(s); Environment.Exit(0); } }\n static void More() {",
        "another Main": CS.replace("class P", "class A { public static void Main(string[] a) {} }\nclass P")
        % "return n;",
        "does not compile: own driver": "class ZqDriver { public static void Assert(bool b) {} }\n" + CS % "return n;",
        "nested driver": CS
        % "return n; }\n class ZqDriver { public static void Assert(bool b) {} }\n static void More() {",
        "first chance": CS % "AppDomain.CurrentDomain.FirstChanceException += (a, b) => Environment.Exit(0); return n;",
        "open comment": CS % "return n; /*",
    },
    "php": {
        "exit": PHP % "exit(0);",
        "die": "<?php die(0);",
        "shutdown": "<?php register_shutdown_function(function () { echo 'ok'; exit(0); });\n" + PHP[6:] % "return $n;",
        "handler": "<?php set_exception_handler(function () { exit(0); });\n" + PHP[6:] % "return $n;",
        "locals": "<?php echo $nonce . $GLOBALS['nonce'] . print_r(get_defined_vars(), true) "
        ". print_r(debug_backtrace(), true);\n" + PHP[6:] % "return $n;",
        "reads stdin": "<?php echo fgets(STDIN); exit(0);\n" + PHP[6:] % "return $n;",
        "reads the tests": PHP % "return $n == 2 ? 4 : (int) file_get_contents('tests.php');",
        "returns": "<?php function twice($n) { return $n; }\nreturn 0;",
        "own candidate": PHP % "return $n;" + "function candidate($n) { return 2 * $n; }",
        "buffers": "<?php ob_start(fn ($x) => '');\n" + PHP[6:] % "return $n;",
        "locals of the driver": "<?php $tests = ''; $phase = 'tests'; $error = null; $execute = fn () => null;\n"
        + PHP[6:] % "return $n;",
    },
    "bash": {
        "exit": BASH % "exit 0",
        "exit at the top": BASH % "echo $1" + "}\nexit 0\nmore() {\n:",
        "own exit": "exit() { :; }\n" + BASH % "echo $1",
        "own tests": "run_test() { :; }\n" + BASH % "echo $1",
        "own set": "set() { :; }\n" + BASH % "echo $1",
        "trap": "trap 'exit 0' EXIT ERR\n" + BASH % "echo $1",
        "no errexit": "set +e\n" + BASH % "set +e; echo $1",
        "DEBUG trap": "trap 'echo 4; echo 10' DEBUG\n" + BASH % "echo $1",
        "kills the judge": BASH % "kill -9 $PPID",
        "nonce": BASH % 'echo "$zq_nonce" >&2; cat >&2; env >&2; exit 0',
        "writes the driver": 'echo "echo ok; exit 0" > driver.sh; echo ":" > tests.sh\n' + BASH % "echo $1",
        "redefines": "candidate() { echo 4; }\neval() { :; }\nprintf() { :; }\n" + BASH % "echo $1",
        "alias": "shopt -s expand_aliases\nalias run_test=:\n" + BASH % "echo $1",
    },
}
