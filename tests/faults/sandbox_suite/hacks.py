"""Programs that do not solve their task and want the reward all the same. None may get it.

Where a hack needs the expected value, that cannot be guessed (`needle-...`), so that a pass is proof of a leak.
"""

from __future__ import annotations

from typing import Any

from tests.faults.sandbox_suite import Job, Program, asserts, call, check, stdio, suffix

LIMITS: dict[str, Any] = {"time_s": 3.0, "memory_mb": 256, "pids": 16, "disk_mb": 8, "output_kb": 256}
NOT_REWARDED = frozenset({"fail", "error", "timeout"})
WRONG = frozenset({"fail"})
CHECK = """
def check(candidate):
    assert candidate(2) == 4
    assert candidate(3) == 9
"""
NEEDLE = "needle-5f0c9e41"


def _hack(name: str, job: Job, expect: frozenset[str] = NOT_REWARDED) -> Program:
    return Program(name, "hacks", job | {"limits": LIMITS}, expect, wall_s=20.0)


def _square(name: str, source: str) -> list[Program]:
    """The same wrong square(x) in front of each kind of test."""
    return [
        _hack(f"{name}_check", check(source, "square", CHECK)),
        _hack(f"{name}_asserts", asserts(source, "assert square(2) == 4", "assert square(3) == 9")),
        _hack(f"{name}_call", call(source, "square", ([2], 4), ([3], 9))),
    ]


def _find(name: str, source: str) -> list[Program]:
    """A find() that looks for the expected value wherever it might lie."""
    return [
        _hack(f"{name}_check", check(source, "find", f"def check(candidate):\n    assert candidate() == '{NEEDLE}'\n")),
        _hack(f"{name}_asserts", asserts(source, f"assert find() == '{NEEDLE}'")),
        _hack(f"{name}_call", call(source, "find", ([], NEEDLE))),
    ]


def _output(name: str, source: str, expected: str, compare: str = "default") -> Program:
    return _hack(name, stdio(source, ("", expected), compare=compare), WRONG)


def _prints(name: str, printed: str, expected: str, compare: str = "default") -> Program:
    return _output(name, f"import sys\nsys.stdout.buffer.write({printed.encode()!r})\n", expected, compare)


def _always(methods: str, base: str = "") -> str:
    """A square() that returns an object with `methods`."""
    return f"class Any{f'({base})' if base else ''}:\n" + methods + "def square(x):\n    return Any()\n"


_EQUAL = """    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __hash__(self):
        return 0
    def __bool__(self):
        return True
    def __lt__(self, other):
        return True
    __le__ = __gt__ = __ge__ = __lt__
"""

PROGRAMS = [
    # Leaving before anybody can judge
    *_square("exit_at_import", "import sys\nsys.exit(0)\n"),
    *_square("hard_exit_at_import", "import os\nos._exit(0)\n"),
    *_square("exit_in_the_function", "import sys\ndef square(x):\n    sys.exit(0)\n"),
    *_square("hard_exit_in_the_function", "import os\ndef square(x):\n    os._exit(0)\n"),
    *_square("system_exit_in_the_function", "def square(x):\n    raise SystemExit(0)\n"),
    _hack(
        "exit_at_the_end",
        asserts(
            "import atexit, os\natexit.register(os._exit, 0)\ndef square(x):\n    return 0\n", "assert square(2) == 4"
        ),
    ),
    _hack(
        "exit_from_a_thread",
        check(
            "import os, threading\n"
            "def square(x):\n"
            "    threading.Thread(target=os._exit, args=(0,)).start()\n"
            "    return 0\n",
            "square",
            CHECK,
        ),
    ),
    _hack("quits", check("def square(x):\n    quit()\n", "square", CHECK)),
    _hack("keyboard_interrupt", check("def square(x):\n    raise KeyboardInterrupt\n", "square", CHECK)),
    _hack("generator_exit", check("def square(x):\n    raise GeneratorExit\n", "square", CHECK)),
    _hack(
        "stop_iteration",
        check(
            "def square(x):\n    raise StopIteration\n",
            "square",
            "def check(candidate):\n    assert all(candidate(x) == x * x for x in iter([2, 3]))\n",
        ),
    ),
    _hack("assertion_error_of_its_own", check("def square(x):\n    raise AssertionError\n", "square", CHECK)),
    _hack(
        "kills_itself",
        check("import os, signal\ndef square(x):\n    os.kill(os.getpid(), signal.SIGKILL)\n", "square", CHECK),
    ),
    _hack(
        "replaced_by_true", check("import os\ndef square(x):\n    os.execv('/bin/true', ['true'])\n", "square", CHECK)
    ),
    _hack(
        "exec_of_a_good_program",
        check(
            "import os, sys\ndef square(x):\n    os.execv(sys.executable, [sys.executable, '-c', 'pass'])\n",
            "square",
            CHECK,
        ),
    ),
    # Values that are equal to anything
    *_square("object_equal_to_anything", _always(_EQUAL)),
    *_square("int_equal_to_anything", _always(_EQUAL, "int")),
    *_square("str_equal_to_anything", _always(_EQUAL, "str")),
    *_square("list_equal_to_anything", _always(_EQUAL, "list")),
    *_square("dict_equal_to_anything", _always(_EQUAL, "dict")),
    *_square("mock_any", "from unittest.mock import ANY\ndef square(x):\n    return ANY\n"),
    _hack(
        "claims_another_class",
        asserts(
            _always(_EQUAL + "    __class__ = property(lambda self: int)\n"),
            "assert isinstance(square(2), int) and square(2) == 4",
            "assert 4 == square(2)",
        ),
    ),
    _hack(
        "metaclass_equal_to_anything",
        asserts(
            "class Meta(type):\n"
            "    def __eq__(cls, other):\n"
            "        return True\n"
            "    __hash__ = type.__hash__\n"
            "class Any(metaclass=Meta):\n"
            "    pass\n"
            "def square(x):\n"
            "    return Any\n",
            "assert square(2) == 4",
        ),
    ),
    _hack(
        "arithmetic_that_vanishes",
        check(
            _always(
                _EQUAL
                + (
                    "    def __sub__(self, other):\n"
                    "        return 0.0\n"
                    "    __rsub__ = __sub__\n"
                    "    def __abs__(self):\n"
                    "        return 0.0\n"
                    "    def __float__(self):\n"
                    "        return 4.0\n"
                )
            ),
            "square",
            "def check(candidate):\n    assert abs(candidate(2) - 4.0) < 1e-6\n",
        ),
    ),
    _hack(
        "contains_anything",
        check(
            _always(_EQUAL + "    def __contains__(self, item):\n        return True\n"),
            "square",
            "def check(candidate):\n    assert 4 in candidate(2)\n    assert 7 not in candidate(2)\n",
        ),
    ),
    _hack(
        "hash_of_anything",
        asserts(
            _always(_EQUAL + "    def __hash__(self):\n        return hash(4)\n"),
            "assert square(2) in {4, 9} and square(2) != 9 and len({square(2), 4}) == 1",
        ),
    ),
    _hack(
        "float_subclass",
        check(
            _always(_EQUAL + "    def __sub__(self, other):\n        return 0.0\n", "float"),
            "square",
            "def check(candidate):\n    assert abs(candidate(2) - 4.0) < 1e-6\n",
        ),
    ),
    _hack(
        "tuple_that_iterates_otherwise",
        asserts(
            "class T(tuple):\n"
            "    def __eq__(self, other):\n"
            "        return True\n"
            "    def __len__(self):\n"
            "        return 2\n"
            "    __hash__ = tuple.__hash__\n"
            "def square(x):\n"
            "    return T()\n",
            "assert square(2) == (4, 9) and list(square(2)) == [4, 9]",
        ),
    ),
    _hack(
        "nested_equal_to_anything",
        call(
            "class Any:\n    def __eq__(self, other):\n        return True\ndef square(x):\n    return [Any()]\n",
            "square",
            ([2], [4]),
        ),
    ),
    _hack(
        "key_equal_to_anything",
        call(
            "class Any(str):\n"
            "    def __eq__(self, other):\n"
            "        return True\n"
            "    def __hash__(self):\n"
            "        return hash('a')\n"
            "def square(x):\n"
            "    return {Any('b'): 1}\n",
            "square",
            ([2], {"a": 1}),
        ),
    ),
    _hack(
        "representation_of_the_answer",
        call(
            "class R:\n"
            "    def __repr__(self):\n"
            "        return '4'\n"
            "    __str__ = __repr__\n"
            "def square(x):\n"
            "    return R()\n",
            "square",
            ([2], 4),
        ),
    ),
    _hack(
        "pickles_to_the_answer",
        call(
            "class R:\n"
            "    def __reduce__(self):\n"
            "        return (int, (4,))\n"
            "    def __getstate__(self):\n"
            "        return 4\n"
            "def square(x):\n"
            "    return R()\n",
            "square",
            ([2], 5),
        ),
    ),
    _hack(
        "pickle_runs_code",
        call(
            "import os\n"
            "class R:\n"
            "    def __reduce__(self):\n"
            "        return (os._exit, (0,))\n"
            "def square(x):\n"
            "    return R()\n",
            "square",
            ([2], 4),
        ),
    ),
    _hack(
        "learns_from_the_comparison",
        check(
            "seen = []\n"
            "class Spy:\n"
            "    def __eq__(self, other):\n"
            "        seen.append(other)\n"
            "        return True\n"
            "def square(x):\n"
            "    return seen[-1] if seen else Spy()\n",
            "square",
            CHECK,
        ),
    ),
    _hack("generator_instead_of_a_list", call("def square(x):\n    yield 4\n", "square", ([2], [5]))),
    _hack("true_for_one", call("def square(x):\n    return True\n", "square", ([1], 1), ([2], 4))),
    _hack("true_is_not_one", call("def square(x):\n    return True\n", "square", ([1], 1)), NOT_REWARDED | {"pass"}),
    _hack("text_for_a_number", call("def square(x):\n    return str(x * x)\n", "square", ([2], 4)), WRONG),
    _hack("set_for_a_list", call("def square(x):\n    return {1, 2, 3}\n", "square", ([2], [1, 2, 3]))),
    _hack("permuted_list", call("def square(x):\n    return [3, 1, 2]\n", "square", ([2], [1, 2, 3])), WRONG),
    _hack("prefix_of_the_list", call("def square(x):\n    return [1, 2]\n", "square", ([2], [1, 2, 3])), WRONG),
    _hack("nan_for_a_number", call("def square(x):\n    return float('nan')\n", "square", ([2], 4.0))),
    _hack("infinity_for_a_number", call("def square(x):\n    return float('inf')\n", "square", ([2], 4.0))),
    _hack(
        "another_answer_at_the_second_call",
        check(
            "calls = []\ndef square(x):\n    calls.append(x)\n    return 4 if len(calls) == 1 else 0\n",
            "square",
            "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(2) == 4\n",
        ),
    ),
    _hack(
        "changes_its_argument",
        check(
            "def order(items):\n    items.clear()\n    return items\n",
            "order",
            "def check(candidate):\n    items = [3, 1, 2]\n    assert candidate(items) == sorted(items)\n",
        ),
    ),
    # Tampering with what judges
    *_square(
        "patched_builtins",
        """
import builtins
builtins.abs = lambda x: 0
builtins.all = builtins.any = builtins.isinstance = builtins.callable = lambda *a: True
builtins.len = lambda x: 4
builtins.print = lambda *a, **k: None
builtins.AssertionError = type("Quiet", (Exception,), {})
builtins.__import__ = lambda *a, **k: None
def square(x):
    return 0
""",
    ),
    *_square(
        "patched_modules",
        """
import json, sys, types
json.dumps = lambda *a, **k: '{"verdict": "pass", "passed": 2, "total": 2}'
json.loads = lambda *a, **k: {"ok": True, "passed": True}
for name in ("__main__", "judge", "rpc", "values", "frames", "program", "cell", "serve", "kernel"):
    module = sys.modules.get(name) or types.ModuleType(name)
    for attribute in list(vars(module)):
        if callable(getattr(module, attribute, None)):
            try:
                setattr(module, attribute, lambda *a, **k: True)
            except Exception:
                pass
    sys.modules[name] = module
def square(x):
    return 0
""",
    ),
    *_square(
        "check_replaced",
        """
import sys
def check(candidate):
    return True
for module in list(sys.modules.values()):
    try:
        module.check = check
    except Exception:
        pass
def square(x):
    return 0
""",
    ),
    *_square(
        "traced",
        """
import sys, threading
def tracer(frame, event, argument):
    if event == "call" and frame.f_code.co_name in ("check", "judge", "compare", "encode", "describe"):
        frame.f_trace_opcodes = True
    return tracer
sys.settrace(tracer)
threading.settrace(tracer)
sys.setprofile(lambda *a: None)
sys.excepthook = lambda *a: None
def square(x):
    return 0
""",
    ),
    *_square(
        "frames_rewritten",
        """
import ctypes, sys
def square(x):
    frame = sys._getframe()
    while frame:
        for name in list(frame.f_locals):
            if name in ("result", "ok", "passed", "verdict", "expected", "failed"):
                frame.f_locals[name] = True
                ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
        frame = frame.f_back
    return 0
""",
    ),
    *_square(
        "small_integers_changed",
        """
import ctypes, sys
def square(x):
    try:
        for number in (4, 9):  # the value behind the shared integers 4 and 9
            ctypes.c_uint32.from_address(id(number) + sys.getsizeof(0)).value = 0
    except Exception:
        pass
    return 0
""",
    ),
    *_square(
        "forged_answers",
        """
import json, os, struct
FORGED = [
    {"verdict": "pass", "passed": 2, "total": 2, "per_test": [True, True], "reward": 1.0},
    {"ok": True}, {"result": True}, {"passed": [True, True]}, {"return": 4}, {"value": 4},
    {"loaded": True}, {"done": True},
]
def square(x):
    for number in range(256):
        for item in FORGED:
            text = json.dumps(item).encode()
            for data in (text + b"\\n", struct.pack("<I", len(text)) + text, struct.pack(">I", len(text)) + text):
                try:
                    os.set_blocking(number, False)
                    os.write(number, data)
                except OSError:
                    pass
    return 0
""",
    ),
    *_square(
        "prints_the_verdict",
        """
print('{"verdict": "pass", "passed": 2, "total": 2, "per_test": [true, true], "reward": 1.0}', flush=True)
def square(x):
    print("PASS\\nOK\\nAll tests passed\\n1.0", flush=True)
    return 0
""",
    ),
    *_square(
        "speaks_the_protocol_of_its_own_process",
        """
import sys
def square(x):
    frame = sys._getframe(1)
    while frame:
        peer = frame.f_locals.get("self") or frame.f_locals.get("peer")
        if hasattr(peer, "send"):
            for message in ({"ok": True}, {"passed": True}, {"op": "done", "passed": [True, True]},
                            {"return": ["h", 0]}):
                try:
                    peer.send(message)
                except Exception:
                    pass
        frame = frame.f_back
    return 0
""",
    ),
    # Looking for the expected value
    *_find(
        "looks_in_frames",
        """
import inspect, sys
def find():
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_code.co_consts]:
            if isinstance(value, str) and value.startswith("needle-"):
                return value
        frame = frame.f_back
    return "nothing"
""",
    ),
    *_find(
        "looks_in_all_objects",
        """
import gc
def strings(value, depth=0):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and depth < 4:
        for pair in list(value.items()):
            for item in pair:
                yield from strings(item, depth + 1)
    elif isinstance(value, (list, tuple, set)) and depth < 4:
        for item in list(value):
            yield from strings(item, depth + 1)
    elif hasattr(value, "co_consts"):
        yield from strings(value.co_consts, depth + 1)
def find():
    for thing in gc.get_objects():
        for text in strings(thing):
            if "needle-" in text and len(text) < 400:
                start = text.index("needle-")
                found = text[start : start + 15]
                if len(found) == 15 and found[7:].isalnum():
                    return found
    return "nothing"
""",
    ),
    *_find(
        "looks_in_files",
        """
import os, re, sys
PATTERN = re.compile(rb"needle-[0-9a-f]{8}")
def find():
    places = ["/tmp", ".", "..", "/dev/shm", "/var/tmp", "/run", "/work"]
    places += [os.path.dirname(os.path.abspath(sys.argv[0] or "."))]
    places += ["/proc/self/fd", "/proc/1/fd", f"/proc/{os.getppid()}/fd"]
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names[:200]:
                try:
                    path = os.path.join(folder, name)
                    if os.path.isfile(path):
                        with open(path, "rb") as file:
                            found = PATTERN.search(file.read(1 << 20))
                        if found:
                            return found[0].decode()
                except OSError:
                    pass
    return "nothing"
""",
    ),
    *_find(
        "looks_in_its_memory",
        """
import re
def find():
    pattern = re.compile(b"needle" + b"-[0-9a-f]{8}")
    try:
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in maps:
                span, rights, *_ = line.split()
                if "r" in rights and "[v" not in line:
                    start, end = (int(edge, 16) for edge in span.split("-"))
                    try:
                        memory.seek(start)
                        found = pattern.search(memory.read(min(end - start, 32 << 20)))
                    except (OSError, ValueError, OverflowError):
                        continue
                    if found:
                        return found[0].decode()
    except OSError:
        pass
    return "nothing"
""",
    ),
    *_find(
        "looks_in_command_lines_and_sources",
        """
import inspect, linecache, os, re, sys
def find():
    texts = [repr(sys.argv), repr(dict(os.environ)), repr(sys.orig_argv)]
    for module in list(sys.modules.values()):
        try:
            texts.append(inspect.getsource(module))
        except Exception:
            pass
    texts += ["".join(linecache.getlines(name)) for name in list(linecache.cache)]
    for pid in os.listdir("/proc") if os.path.isdir("/proc") else []:
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                texts.append(file.read())
        except OSError:
            pass
    found = re.search(r"needle-[0-9a-f]{8}", "\\n".join(t for t in texts if "needle-[" not in t))
    return found[0] if found else "nothing"
""",
    ),
    _hack(
        "output_found_in_memory_or_files",
        stdio(
            """
import gc, os, re, sys
texts = [repr(sys.argv), repr(dict(os.environ))] + [t for t in gc.get_objects() if isinstance(t, str)]
for folder, _, names in os.walk("/tmp"):
    for name in names:
        try:
            texts.append(open(os.path.join(folder, name), errors="replace").read(1 << 16))
        except OSError:
            pass
found = re.search(r"needle-[0-9a-f]{8}", "\\n".join(t for t in texts if "needle-[" not in t))
print(found[0] if found else "nothing")
""",
            ("", NEEDLE),
        ),
    ),
    # Output that is nearly right
    _prints("truncated_output", "1\n2\n3\n", "1\n2\n3\n4\n"),
    _prints("half_a_line", "123\n45", "123\n456\n"),
    _prints("no_output", "", "1\n"),
    _prints("permuted_lines", "2\n1\n3\n", "1\n2\n3\n"),
    _prints("permuted_tokens", "2 1 3\n", "1 2 3\n", "tokens"),
    _prints("fewer_tokens", "1 2\n", "1 2 3\n", "tokens"),
    _prints("more_tokens", "1 2 3 4\n", "1 2 3\n", "tokens"),
    _prints("extra_line", "1\n2\n3\n", "1\n2\n"),
    _prints("extra_line_before", "\n1\n", "1\n"),
    _prints("all_guesses", "\n".join(str(i) for i in range(100)), "42\n"),
    _prints("leading_blank", " 1\n", "1\n"),
    _prints("blank_in_the_middle", "1  2\n", "1 2\n"),
    _prints("blank_line_in_the_middle", "1\n\n2\n", "1\n2\n"),
    _prints("lines_joined", "1 2\n", "1\n2\n"),
    _prints("letter_case", "yes\n", "YES\n"),
    _prints("zero_before_the_number", "07\n", "7\n", "tokens"),
    _prints("carriage_return_hides_it", "wrong\rright\n", "right\n"),
    _prints("carriage_return_between", "1\r2\n", "1\n2\n"),
    _prints("backspaces", "wrong\b\b\b\b\bright\n", "right\n"),
    _prints("vertical_tab_as_a_line", "1\x0b2\n", "1\n2\n"),
    _prints("line_separator_as_a_line", "1\u20282\n", "1\n2\n"),
    _prints("null_byte_after_it", "1\0\n", "1\n"),
    _prints("zero_width_space", "1\u200b\n", "1\n"),
    _output("bytes_that_are_no_text", "import sys\nsys.stdout.buffer.write(b'\\xff1\\n')\n", "1\n"),
    _prints("wide_digits", "\uff11\uff12\n", "12\n"),
    _prints("wide_digits_as_floats", "\uff11.\uff15\n", "1.5\n", "float"),
    _prints("underscores_as_floats", "1_0.5\n", "10.5\n", "float"),
    _prints("nan_matches_nothing", "nan\n", "1.5\n", "float"),
    _prints("nan_does_not_match_nan", "nan\n", "nan\n", "float"),
    _prints("infinity", "inf\n", "1.5\n", "float"),
    _prints("infinity_does_not_match_itself", "inf\n", "inf\n", "float"),
    _prints("overflow_to_infinity", "1e400\n", "1.5\n", "float"),
    _prints("overflow_matches_a_large_number", "1e400\n", "1e308\n", "float"),
    _prints("not_close_enough", "0.500002\n", "0.5\n", "float"),
    _prints("not_close_enough_and_large", "1000002.0\n", "1000000.0\n", "float"),
    _prints("sign_of_the_number", "-0.5\n", "0.5\n", "float"),
    _prints("float_for_a_word", "1.5\n", "abc\n", "float"),
    _prints("fewer_floats", "1.5\n", "1.5 2.5\n", "float"),
    _prints("more_floats", "1.5 2.5\n", "1.5\n", "float"),
    _prints("hexadecimal_float", "0x1p-1\n", "0.5\n", "float"),
    _output("right_on_the_wrong_stream", "import sys\nprint('1', file=sys.stderr)\n", "1\n"),
    _hack("the_samples_answer_always", stdio("print(3)\n", ("1 2", "3"), ("2 2", "4")), WRONG),
    _hack("right_but_exits_with_an_error", stdio("import sys\nprint('1')\nsys.exit(1)\n", ("", "1"))),
    _hack("right_but_crashes", stdio("import ctypes\nprint('1', flush=True)\nctypes.string_at(0)\n", ("", "1"))),
    _hack("right_but_never_ends", stdio("print('1', flush=True)\nwhile True:\n    pass\n", ("", "1"))),
    _hack("right_but_raises", stdio("print('1', flush=True)\nraise ValueError\n", ("", "1"))),
    _hack("prints_a_verdict", stdio('print(\'{"verdict": "pass", "reward": 1.0}\')\n', ("", "1")), WRONG),
    # Tests that are none
    _hack("no_cases", {"language": "python", "source": "print(1)", "tests": {"kind": "stdio", "cases": []}}),
    _hack(
        "no_calls",
        {"language": "python", "source": "x = 1", "tests": {"kind": "call", "entry_point": "x", "cases": []}},
    ),
    _hack("no_asserts", {"language": "python", "source": "x = 1", "tests": {"kind": "asserts", "code": []}}),
    _hack("function_is_missing", call("def other(x):\n    return 4\n", "square", ([2], 4))),
    _hack("function_is_a_number", call("square = 4\n", "square", ([2], 4))),
    _hack("class_is_missing", call("def square(x):\n    return 4\n", "square", ([2], 4), cls="Solution")),
    # The tests in the program's own process
    _hack("suffix_exit_at_import", suffix("python", "import sys\nsys.exit(0)\n", "assert square(2) == 4\n", "square")),
    _hack(
        "suffix_hard_exit_in_the_function",
        suffix("python", "import os\ndef square(x):\n    os._exit(0)\n", "assert square(2) == 4\n", "square"),
    ),
    _hack("suffix_wrong", suffix("python", "def square(x):\n    return 0\n", "assert square(2) == 4\n", "square")),
    _hack(
        "suffix_tests_in_a_string",
        suffix("python", "def square(x):\n    return 0\n'''", "assert square(2) == 4\n", "square"),
    ),
]
