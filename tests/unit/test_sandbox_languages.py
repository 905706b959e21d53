"""What composes programs with their tests, and what a run's end means: pure functions, no compiler needed."""

from __future__ import annotations

import re

import pytest

from evaluator.sandbox.drivers import driver_text, identifier
from evaluator.sandbox.job import LanguageName, SuffixTests
from evaluator.sandbox.languages import FAILED_EXIT, LANGUAGES, RefusedProgram, classify, java_main_class

TESTS: dict[LanguageName, str] = {
    "cpp": "#undef NDEBUG\n#include<assert.h>\nint main(){ assert(f() == 1); }",
    "java": "public class Main { public static void main(String[] args) { List<Boolean> x = Arrays.asList(true); } }",
    "javascript": "console.assert(f() === 1)",
    "typescript": "declare var require: any; const assert = require('node:assert'); assert.deepEqual(f(), 1);",
    "csharp": "    }\n    public static void Main(string[] args) {\n    Debug.Assert(F() == 1);\n    }\n}",
    "php": "if (f() !== 1) { throw new Exception('Test failed!'); }",
    "bash": '}\ncandidate() {\n f "$@"\n}\nset -e\n[[ $(candidate) = "1" ]]\n',
}
SOURCES: dict[LanguageName, str] = {
    "cpp": "int f() { return 1; }",
    "java": "class Solution { }",
    "javascript": "const f = () => 1",
    "typescript": "export function f(): number { return 1; }",
    "csharp": "class Problem {\n  public static int F() {\n return 1;",
    "php": "<?php\nfunction f() { return 1; }",
    "bash": "f() {\n echo 1\n",
}


def suffix(name: LanguageName) -> SuffixTests:
    return SuffixTests(kind="suffix", code=TESTS[name])


@pytest.mark.parametrize("name", TESTS)
def test_a_suffix_job_is_deterministic_and_its_files_are_plain_names(name: LanguageName) -> None:
    language = LANGUAGES[name]
    program = language.compose(SOURCES[name], suffix(name))
    assert program == language.compose(SOURCES[name], suffix(name))
    assert program.needs_nonce
    assert all(re.fullmatch(r"[A-Za-z]\w*\.\w+", file) for file in [*program.sources, *program.data])
    assert bool(program.sources) == (language.compile is not None)
    assert not program.sources.keys() & program.data.keys()


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_stdio_job_holds_the_program_alone(name: LanguageName) -> None:
    language = LANGUAGES[name]
    program = language.compose("x", None)
    assert not program.needs_nonce
    assert {**program.sources, **program.data} == {language.source_name: "x"}


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("memory_mb", [16, 256, 4096])
def test_no_placeholder_is_left(name: LanguageName, memory_mb: int) -> None:
    language = LANGUAGES[name]
    program = language.compose(SOURCES.get(name, "x"), None)
    argv = [*(language.compile_argv(program, "/tools") or []), *language.run_argv(program, memory_mb)]
    words = [*argv, *language.environment("/tmp/work", "/tools", memory_mb).values()]
    assert not [word for word in words if re.search(r"\{\w+\}", word)]
    assert 8 <= language.heap_mb(memory_mb) <= memory_mb


def test_python_has_no_suffix_tests() -> None:
    with pytest.raises(RefusedProgram, match="not for python"):
        LANGUAGES["python"].compose("x", suffix("php"))


@pytest.mark.parametrize(
    ("exit_code", "signal", "meaning"),
    [(FAILED_EXIT, None, "fail"), (0, None, "error"), (1, None, "error"), (None, 6, "error"), (None, None, "error")],
)
def test_only_the_drivers_exit_code_is_a_failed_assertion(
    exit_code: int | None, signal: int | None, meaning: str
) -> None:
    assert classify(exit_code, signal, "AssertionError") == meaning


@pytest.mark.parametrize(
    "driver", ["driver.js", "driver.hpp", "driver.sh", "driver.php", "ZqDriver.java", "ZqDriver.cs"]
)
def test_every_driver_ends_with_that_exit_code(driver: str) -> None:
    assert str(FAILED_EXIT) in driver_text(driver)


# --- C++ --------------------------------------------------------------------------------------------------------------


def test_cpp_names_depend_on_the_program_and_the_tests() -> None:
    names = {identifier(source, SuffixTests(kind="suffix", code=code)) for source in "ab" for code in "cd"}
    assert len(names) == 4
    assert identifier("ab", SuffixTests(kind="suffix", code="c")) != identifier(
        "a", SuffixTests(kind="suffix", code="bc")
    )


@pytest.mark.parametrize(
    "directive",
    ["#define f 1", "  # define f(x) x", "#def\\\nine f", "#/* x */define/*\n*/f", "%:define f 1", "#define f\\\n 1"],
)
def test_cpp_undoes_the_programs_macros(directive: str) -> None:
    program = LANGUAGES["cpp"].compose(f"{directive}\n", suffix("cpp"))
    unit = program.sources["main.cpp"]
    assert unit.index('"program.cpp"') < unit.index("#undef f\n") < unit.index("_tests.hpp")


def test_cpp_assert_is_the_drivers() -> None:
    program = LANGUAGES["cpp"].compose(SOURCES["cpp"], suffix("cpp"))
    (tests,) = [text for file, text in program.sources.items() if file.endswith("_tests.hpp")]
    assert "assert.h" not in tests
    assert LANGUAGES["cpp"].compile_argv(program, "/t")[-3:] == ["main.cpp", "-o", "program"]  # type: ignore[index]


def test_cpp_needs_a_main_in_the_tests() -> None:
    with pytest.raises(RefusedProgram, match="no main"):
        LANGUAGES["cpp"].compose("", SuffixTests(kind="suffix", code="int x;"))


@pytest.mark.parametrize(
    ("source", "whole"), [("std::regex r;", True), ("std::thread t;", True), ("vector<int> v;", False)]
)
def test_cpp_rare_headers(source: str, whole: bool) -> None:
    assert ("ZQ_WHOLE_LIBRARY" in LANGUAGES["cpp"].compose(source, None).sources["program.cpp"]) is whole


# --- Java -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("class A { } class B { public static void main(String[] a) { } }", "B"),
        ("public class Main { public static void main(String... a) { } }", "Main"),
        ("class A { class C { void main() { } } } class B { static void main(String[] a) { } }", "B"),
        ('class A { String s = "class X { void main("; /* class Y { */ } // class Z', "A"),
        ("package p.q; public class A { public static void main(String[] a) { } }", "p.q.A"),
        ("public class B { } class A { }", "B"),
        ("", "Main"),
    ],
)
def test_java_main_class(source: str, name: str) -> None:
    assert java_main_class(source) == name
    program = LANGUAGES["java"].compose(source, None)
    assert list(program.sources) == [f"{name.rpartition('.')[2]}.java"]


def test_java_leaves_one_public_class() -> None:
    source = "public class Util { }\npublic class Main { public static void main(String[] a) { } }"
    text = LANGUAGES["java"].compose(source, None).sources["Main.java"]
    assert text == "class Util { }\npublic class Main { public static void main(String[] a) { } }"
    text = LANGUAGES["java"].compose("package p;\npublic final class Solution { }", suffix("java")).sources["Main.java"]
    assert "package" not in text
    assert "\nfinal class Solution" in text


@pytest.mark.parametrize(
    "declaration", ["class Arrays {}", "enum List { }", "class /**/ Boolean {}", "record Arr\\u0061ys() {}"]
)
def test_java_refuses_classes_that_the_tests_take_from_the_jdk(declaration: str) -> None:
    with pytest.raises(RefusedProgram, match=r"Arrays|List|Boolean"):
        LANGUAGES["java"].compose(f"class Solution {{ }} {declaration}", suffix("java"))


def test_java_allows_classes_that_the_tests_do_not_name() -> None:
    LANGUAGES["java"].compose("class Solution { } class LinkedList { }", suffix("java"))


# --- the others -------------------------------------------------------------------------------------------------------


def test_typescript_makes_scripts_of_modules() -> None:
    source = (
        "export default async function f() {}\nexport const x = 1;\nexport type T = number;\nconst s = `\nexport * `;"
    )
    text = LANGUAGES["typescript"].compose(source, suffix("typescript")).sources["program.ts"]
    assert text == "async function f() {}\nconst x = 1;\ntype T = number;\nconst s = `\nexport * `;"


@pytest.mark.parametrize("assertion", ["Debug.Assert(", "System.Diagnostics.Debug.Assert(", "Debug . Assert ("])
def test_csharp_assertions_are_the_drivers(assertion: str) -> None:
    tests = SuffixTests(kind="suffix", code=TESTS["csharp"].replace("Debug.Assert(", assertion))
    program = LANGUAGES["csharp"].compose(SOURCES["csharp"], tests)
    assert "Debug" not in program.sources["program.cs"]
    assert "global::ZqDriver.Assert(" in program.sources["program.cs"]
    assert " Main(" not in program.sources["program.cs"]
    assert re.search(r"global::Problem\.zq[0-9a-f]{24}\(arguments\);", program.sources["ZqDriver.cs"])
    assert "-main:ZqDriver" in (LANGUAGES["csharp"].compile_argv(program, "/t") or [])


def test_csharp_main_without_arguments() -> None:
    tests = SuffixTests(kind="suffix", code="}\nstatic int Main() { return 0; } }")
    program = LANGUAGES["csharp"].compose(SOURCES["csharp"], tests)
    assert re.search(r"global::Problem\.zq[0-9a-f]{24}\(\);", program.sources["ZqDriver.cs"])


def test_php_programs_get_an_opening_tag() -> None:
    assert LANGUAGES["php"].compose("function f() {}", suffix("php")).data["program.php"].startswith("<?php\n")
    assert LANGUAGES["php"].compose(SOURCES["php"], suffix("php")).data["program.php"] == SOURCES["php"]


def test_bash_moves_the_closing_brace_and_makes_stand_ins() -> None:
    source = "helper() { :; }\nfunction g { :; }\nset() { :; }\ncandidate() { :; }\nf() {\n echo 1"
    data = LANGUAGES["bash"].compose(source, suffix("bash")).data
    assert data["program.sh"] == source + "\n}\n"
    # only what the tests call and do not define themselves; no builtin
    assert data["tests.sh"].startswith('f() { zq_call f "$@"; }\n\ncandidate() {')
