"""Puts a program, its suffix tests and the trusted driver together, one function per language. Pure but for reading the
drivers (evaluator/sandbox/drivers/), which have the reasons at their heads.

    first line of stdin: the nonce --> driver --> program, tests --> "\\n" + nonce + "\\n" on stdout, exit 0
                                                        \\--> failed assertion: exit FAILED_EXIT, no nonce
                                                         \\-> anything else: no nonce

A run passes if, and only if, the nonce stands alone on the last line of stdout. The exit code only tells a failed
assertion from a crash. Names that the driver and the tests need inside the program's own text (C++, C#) carry a hash of
source and tests, so that a program cannot name them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from evaluator.sandbox.job import SuffixTests

FAILED_EXIT = 81


class RefusedProgram(ValueError):
    """The program is not run: it replaces what the tests rely on. The text says what."""


@dataclass(frozen=True)
class Program:
    """Files of one job, by name. `sources` are for the compiler alone; `data` are for the run alone.

    `entry` is what a run starts: a file, or the main class. `needs_nonce`: standard input is the nonce and a line end.
    """

    sources: dict[str, str]
    data: dict[str, str]
    entry: str
    needs_nonce: bool = False


@cache
def driver_text(name: str) -> str:
    """A file of evaluator/sandbox/drivers/."""
    return (resources.files("evaluator.sandbox") / "drivers" / name).read_text("utf-8")


def identifier(source: str, tests: SuffixTests) -> str:
    """A name that the program cannot contain: it depends on the whole of it."""
    return (
        "zq"
        + hashlib.sha256(f"{len(source)}\0{source}\0{tests.code}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
    )


# --- C++ -------------------------------------------------------------------------------------------------------------

_SPLICE = re.compile(r"\\[ \t]*\r?\n")
_DEFINE = re.compile(r"(?:#|%:)(?:\s|/\*.*?\*/)*define(?:\s|/\*.*?\*/)+([^\W\d]\w*)", re.DOTALL)
_ASSERT_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"](?:assert\.h|cassert)[>\"][^\n]*$", re.MULTILINE)


_MAIN = re.compile(r"\bmain[ \t]*\(([^()]*)\)")


def cpp(source: str, tests: SuffixTests) -> Program:
    """One translation unit: driver, program, every macro of the program undone, assert of our own, tests.

    Program and tests are files of their own, so that a comment, literal or #if left open ends with its file.
    """
    zq = identifier(source, tests)
    # dict: each once, in order
    undo = "".join(f"#undef {name}\n" for name in dict.fromkeys(_DEFINE.findall(_SPLICE.sub("", source))))
    main = _MAIN.search(tests.code)
    if main is None:
        raise RefusedProgram("the tests have no main")
    unit = (
        f'#define ZQ {zq}\n#include "{zq}_driver.hpp"\n#undef ZQ\n'
        f'#include "program.cpp"\n{undo}#undef assert\n#undef main\n'
        f"#define assert(...) (static_cast<bool>(__VA_ARGS__) ? void(0) : {zq}_fail("
        '"assertion failed: " #__VA_ARGS__ "\\n", sizeof("assertion failed: " #__VA_ARGS__ "\\n") - 1))\n'
        f'int main({main[1]}) asm("{zq}_tests");\n#include "{zq}_tests.hpp"\n'
    )
    files = {
        "main.cpp": unit,
        "program.cpp": cpp_headers(source),
        f"{zq}_driver.hpp": driver_text("driver.hpp"),
        f"{zq}_tests.hpp": _ASSERT_INCLUDE.sub("", tests.code),
    }
    return Program(files, {}, "program", needs_nonce=True)


# The header that is compiled ahead leaves these out, since each makes loading it slower for every program.
_RARE_HEADERS = re.compile(
    r"\b(?:regex|filesystem|future|async|promise|thread|mutex|atomic|atomic_\w+|condition_variable|pmr|from_chars|to_chars"
    r"|execution|valarray|locale|any|any_cast|shared_mutex|codecvt|wstring_convert)\b"
)


def cpp_headers(source: str) -> str:
    """The program, with the whole of <bits/stdc++.h> where it may need more than the header compiled ahead."""
    if _RARE_HEADERS.search(source):
        return f"#define ZQ_WHOLE_LIBRARY\n#include <bits/stdc++.h>\n#line 1\n{source}"
    return source


# --- Java ------------------------------------------------------------------------------------------------------------

# Types that tests use by their simple name. A class of the same name in the program would take their place.
_JDK_TYPES = """
    AbstractMap ArithmeticException ArrayDeque ArrayList Arrays AssertionError BigDecimal BigInteger BitSet Boolean Byte
    Character CharSequence Class Collection Collections Collectors Comparable Comparator Deque Double Enum EnumMap Error
    Exception Float HashMap HashSet IllegalArgumentException Integer Iterable Iterator LinkedHashMap LinkedHashSet
    LinkedList List Long Map Math NavigableMap Number Object Objects Optional PriorityQueue Queue Random Record
    RuntimeException Scanner Set Short SortedMap Stack StrictMath String StringBuilder Stream IntStream System Thread
    Throwable TreeMap TreeSet Vector Void
"""
_UNICODE_ESCAPE = re.compile(r"\\u+([0-9a-fA-F]{4})")
_JAVA_TYPE = re.compile(r"\b(?:class|interface|enum|record)(?:\s|/\*.*?\*/|//[^\n\r]*)+([A-Za-z_$][\w$]*)", re.DOTALL)
_JAVA_PACKAGE = re.compile(r"^[ \t]*package\s+[\w.]+\s*;", re.MULTILINE)
_JAVA_PUBLIC = re.compile(
    r"^public\s+((?:(?:final|abstract|strictfp|sealed|non-sealed)\s+)*(?:class|interface|enum|record)\b)", re.M
)
_WORD = re.compile(r"[A-Za-z_$][\w$]*")


def java(source: str, tests: SuffixTests) -> Program:
    """Program and tests in Main.java, whose public class Main is the tests'; the driver starts it."""
    declared = set(_JAVA_TYPE.findall(_UNICODE_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), source)))
    shadowed = sorted(declared & set(_JDK_TYPES.split()) & set(_WORD.findall(tests.code)))
    if shadowed:
        raise RefusedProgram(f"the program defines {', '.join(shadowed)}, which the tests take from the JDK")
    # The package goes, since the driver is in none; `public` too: a file has one public class, and it is Main.
    body = _JAVA_PUBLIC.sub(r"\1", _JAVA_PACKAGE.sub("", source))
    text = f"import java.util.*; {body}\n/**/\n{tests.code}"  # /**/ ends a comment that the program left open
    return Program({"Main.java": text, "ZqDriver.java": driver_text("ZqDriver.java")}, {}, "ZqDriver", needs_nonce=True)


# --- JavaScript, TypeScript ------------------------------------------------------------------------------------------

_TS_EXPORT = re.compile(
    r"^export\s+(?:default\s+)?(?=(?:async\s+)?(?:function|abstract|class|const|let|var|enum|interface|type|declare)\b)",
    re.M,
)


def javascript(source: str, tests: SuffixTests) -> Program:
    """Two scripts of one realm, run by the driver."""
    data = {"program.js": source, "tests.js": tests.code, "driver.js": driver_text("driver.js")}
    return Program({}, data, "driver.js", needs_nonce=True)


def typescript(source: str, tests: SuffixTests) -> Program:
    """Two scripts, checked together. `export` goes, since it would make a module, whose names tests do not see."""
    sources = {"program.ts": _TS_EXPORT.sub("", source), "tests.ts": tests.code}
    return Program(sources, {"driver.js": driver_text("driver.js")}, "driver.js", needs_nonce=True)


# --- C# --------------------------------------------------------------------------------------------------------------

_CS_ASSERT = re.compile(r"(?:\bSystem\s*\.\s*Diagnostics\s*\.\s*)?\bDebug\s*\.\s*Assert\s*\(")
_CS_MAIN = re.compile(r"\bstatic\s+(?:async\s+)?(void|int)\s+Main\s*\(\s*(string\s*\[\s*\]\s*\w+)?\s*\)")
_CS_CLASS = re.compile(r"\bclass\s+([A-Za-z_]\w*)")


def csharp(source: str, tests: SuffixTests) -> Program:
    """Program and tests in one file (the tests may begin with the brace that ends the function).

    The tests' Main gets a name that the program cannot know, and its asserts throw. Its class is named Problem, as
    MultiPL-E has it, or else is the last of the tests or of the program.
    """
    zq = identifier(source, tests)
    code = _CS_ASSERT.sub("global::ZqDriver.Assert(", tests.code)
    main = _CS_MAIN.search(code)
    if main is None:
        raise RefusedProgram("the tests have no static Main")
    code = f"{code[: main.start()]}internal static void {zq}({main[2] or ''}){code[main.end() :]}"
    code = re.sub(r"\b(?:public|private|protected|internal)\s+internal static", "internal static", code)
    classes = _CS_CLASS.findall(tests.code[: main.start()]) or _CS_CLASS.findall(source)
    if not classes:
        raise RefusedProgram("the program has no class")
    # The call is bound when it is compiled: the name exists once, in the class around the tests.
    holder = "Problem" if "Problem" in classes else classes[-1]
    arguments = "arguments" if main[2] else ""
    driver = driver_text("ZqDriver.cs").replace("ZQ_CALL_TESTS", f"global::{holder}.{zq}({arguments})")
    return Program(
        {"program.cs": f"{source}\n/**/\n{code}", "ZqDriver.cs": driver}, {}, "program.exe", needs_nonce=True
    )


# --- PHP, Bash -------------------------------------------------------------------------------------------------------


_PHP_ASSERT = re.compile(r"(?<![\w$>:\\])\\?assert\s*\(", re.IGNORECASE)


def php(source: str, tests: SuffixTests) -> Program:
    """The driver includes the program and evaluates the tests."""
    program = source if "<?" in source else f"<?php\n{source}"
    zq = identifier(source, tests)
    code = _PHP_ASSERT.sub(lambda _: f"\\{zq}(", re.sub(r"^\s*<\?php\b", "", tests.code))
    data = {"program.php": program, "tests.php": code, "driver.php": driver_text("driver.php").replace("ZQ_ASSERT", zq)}
    return Program({}, data, "driver.php", needs_nonce=True)


_SH_FUNCTION = re.compile(
    r"^[ \t]*(?:function[ \t]+([A-Za-z_][\w-]*)(?:[ \t]*\([ \t]*\))?|([A-Za-z_][\w-]*)[ \t]*\([ \t]*\))", re.MULTILINE
)
_SH_WORD = re.compile(r"[A-Za-z_][\w-]*")
_SH_OWN = """
    alias bg bind break builtin caller case cd command compgen complete compopt continue coproc declare dirs disown do
    done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help history if in
    jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set shift shopt
    source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while
"""


def bash(source: str, tests: SuffixTests) -> Program:
    """The tests run in the driver's shell; functions of the program that they name are stand-ins (see driver.sh)."""
    code = tests.code
    program = source
    if code.lstrip().startswith("}"):  # the brace that ends the function belongs to the program
        program = f"{source}\n}}\n"
        code = code.lstrip()[1:]
    words = set(_SH_WORD.findall(code))
    of_tests = {first or second for first, second in _SH_FUNCTION.findall(code)}
    names = {first or second for first, second in _SH_FUNCTION.findall(program)} | {tests.entry_point or ""}
    stand_ins = sorted(
        name for name in names & words - of_tests - set(_SH_OWN.split()) if name and not name.startswith("zq_")
    )
    text = "".join(f'{name}() {{ zq_call {name} "$@"; }}\n' for name in stand_ins) + code
    data = {"program.sh": program, "tests.sh": text, "driver.sh": driver_text("driver.sh")}
    return Program({}, data, "driver.sh", needs_nonce=True)
