"""Programs that are right. A sandbox that refuses one of them takes a reward away that was earned."""

from __future__ import annotations

import textwrap
from typing import Any

from tests.faults.sandbox_suite import Job, Program, asserts, call, check, stdio, suffix

LIMITS: dict[str, Any] = {"time_s": 10.0, "memory_mb": 512, "pids": 32, "disk_mb": 16, "output_kb": 1024}


def _honest(name: str, job: Job) -> Program:
    return Program(name, "honest", job | {"limits": LIMITS}, frozenset({"pass"}))


def _script(name: str, source: str, *cases: tuple[str, str], compare: str = "default") -> Program:
    return _honest(name, stdio(textwrap.dedent(source), *cases, compare=compare))


def _function(name: str, source: str, *code: str, setup: str = "") -> Program:
    return _honest(name, asserts(textwrap.dedent(source), *code, setup=setup))


_NUMBERS = " ".join(str(i) for i in range(150_000))
_LINES = "".join(f"{i} {i * i}\n" for i in range(15_000))

PROGRAMS = [
    # Standard input and output
    _script("unicode", "print(input()[::-1])\n", ("日本語 ñ 🎉", "🎉 ñ 語本日")),
    _script(
        "unicode_by_bytes", "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read().upper())\n", ("añb\n", "AñB\n")
    ),
    _script("a_large_input", "print(sum(map(int, input().split())))\n", (_NUMBERS, str(sum(range(150_000))))),
    _script("a_large_output", "for i in range(15_000):\n    print(i, i * i)\n", ("", _LINES)),
    _script(
        "a_large_input_echoed_line_by_line",
        "import sys\nfor line in sys.stdin:\n    print(line, end='')\n",
        (_LINES, _LINES),
    ),
    _script(
        "input_until_the_end",
        "total = 0\n"
        "while True:\n"
        "    try:\n"
        "        total += int(input())\n"
        "    except EOFError:\n"
        "        break\n"
        "print(total)\n",
        ("1\n2\n3", "6"),
        ("", "0"),
    ),
    _script("reads_descriptor_zero", "import os\nprint(sum(map(int, open(0).read().split())))\n", ("1 2 3\n", "6\n")),
    _script(
        "prints_without_newlines",
        "for i in range(3):\n    print(i, end=' ')\nprint(*[1, 2], sep=',', end='')\n",
        ("", "0 1 2 1,2"),
    ),
    _script("trailing_blanks_do_not_matter", "print('1 2  ')\nprint('3\\t')\nprint()\nprint()\n", ("", "1 2\n3\n")),
    _script("line_ends_do_not_matter", "import sys\nsys.stdout.write('1\\r\\n2\\r\\n')\n", ("", "1\n2")),
    _script("tokens_do_not_care_for_lines", "print(1)\nprint(2)\nprint('  3')\n", ("", "1 2 3\n"), compare="tokens"),
    _script(
        "floats_nearly_equal",
        "print(0.1 + 0.2, 'ok', 1e-9, 3, 1e6 + 0.5)\n",
        ("", "0.3 ok 0.0 3 1000000.0\n"),
        compare="float",
    ),
    _script(
        "floats_in_other_notation", "print('1.5e0', '.25', '-0.0', '2.')\n", ("", "1.5 0.25 0.0 2\n"), compare="float"
    ),
    _script("a_main_guard", "def main():\n    print('ran')\n\nif __name__ == '__main__':\n    main()\n", ("", "ran")),
    _script("leaves_with_exit_zero", "import sys\nprint('done')\nsys.exit(0)\n", ("", "done")),
    _script("leaves_with_exit", "print('done')\nexit()\n", ("", "done")),
    _script(
        "writes_to_stderr_too",
        "import sys, warnings\nprint('note', file=sys.stderr)\nwarnings.warn('careful')\nprint('done')\n",
        ("", "done"),
    ),
    _script(
        "a_file_of_its_own",
        "with open('notes.txt', 'w') as file:\n    file.write('hello')\nprint(open('notes.txt').read())\n",
        ("", "hello"),
    ),
    _script(
        "a_temporary_file",
        "import tempfile\n"
        "with tempfile.TemporaryFile('w+') as file:\n"
        "    file.write('hello')\n"
        "    file.seek(0)\n"
        "    print(file.read())\n",
        ("", "hello"),
    ),
    _script(
        "every_case_starts_afresh",
        "import os\nprint(os.path.exists('mark'))\nopen('mark', 'w').close()\n",
        ("", "False"),
        ("", "False"),
        ("", "False"),
    ),
    _script(
        "threads",
        "import threading\n"
        "parts = []\n"
        "ts = [threading.Thread(target=parts.append, args=(i,)) for i in range(8)]\n"
        "[t.start() for t in ts]\n"
        "[t.join() for t in ts]\n"
        "print(sum(parts))\n",
        ("", "28"),
    ),
    _script(
        "a_thread_with_a_large_stack",
        "import sys, threading\n"
        "sys.setrecursionlimit(10**6)\n"
        "threading.stack_size(64 << 20)\n"
        "def f(n):\n"
        "    return n and 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(20_000)))\n"
        "t.start()\n"
        "t.join()\n",
        ("", "20000"),
    ),
    _script(
        "a_thread_pool",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    print(sum(pool.map(lambda x: x * x, range(10))))\n",
        ("", "285"),
    ),
    _script(
        "asyncio",
        "import asyncio\n"
        "async def f(x):\n"
        "    await asyncio.sleep(0.01)\n"
        "    return x\n"
        "async def main():\n"
        "    print(sum(await asyncio.gather(*[f(i) for i in range(10)])))\n"
        "asyncio.run(main())\n",
        ("", "45"),
    ),
    _script(
        "a_child_process",
        "import os\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(w, b'hi')\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(os.read(r, 2).decode())\n",
        ("", "hi"),
    ),
    _script(
        "deep_recursion",
        "import sys\n"
        "sys.setrecursionlimit(20_000)\n"
        "def f(n):\n"
        "    return 0 if n == 0 else 1 + f(n - 1)\n"
        "print(f(15_000))\n",
        ("", "15000"),
    ),
    _script("a_little_sleep", "import time\ntime.sleep(0.5)\nprint('awake')\n", ("", "awake")),
    _script(
        "half_a_second_of_work",
        "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end:\n    pass\nprint('done')\n",
        ("", "done"),
    ),
    _script("a_hundred_megabytes", "x = bytearray(b'x') * (100 << 20)\nprint(len(x))\n", ("", str(100 << 20))),
    _script(
        "decimal_and_fractions",
        "from decimal import Decimal\n"
        "from fractions import Fraction\n"
        "print(Decimal('0.1') + Decimal('0.2'), Fraction(1, 3) + Fraction(1, 6))\n",
        ("", "0.3 1/2"),
    ),
    _script(
        "big_integers",
        "import sys\nprint(2 ** 1000 % 10 ** 9, len(str(7 ** 4000)))\n",
        ("", f"{2**1000 % 10**9} {len(str(7**4000))}"),
    ),
    _script(
        "random_with_a_seed",
        "import random\nrandom.seed(7)\na = random.random()\nrandom.seed(7)\nprint(a == random.random())\n",
        ("", "True"),
    ),
    _script(
        "clocks_and_dates",
        "import datetime, time\nassert time.time() > 1.7e9\nprint(datetime.date(2024, 2, 29).isoformat())\n",
        ("", "2024-02-29"),
    ),
    _script(
        "the_usual_imports",
        """
        import bisect, collections, copy, enum, functools, heapq, hashlib, io, itertools, json, math, operator, os
        import random, re
        import statistics, string, sys, textwrap, time, typing, unicodedata, uuid, datetime, decimal
        import fractions, array, struct
        print(math.gcd(12, 18), collections.Counter('aab')['a'], next(itertools.permutations('ab')), string.digits[3])
        """,
        ("", "6 2 ('a', 'b') 3"),
    ),
    _script(
        "imports_that_are_not_loaded_yet",
        "import zlib, base64, csv, calendar, difflib, zoneinfo, sqlite3, email.message\nprint(zlib.crc32(b'x'))\n",
        ("", "2363233923"),
    ),
    _script("a_wide_character_in_the_source", "π = 3\nprint(π, 'naïve')\n", ("", "3 naïve")),
    _script("windows_line_ends_in_the_source", "x = 1\r\nif x:\r\n    print('yes')\r\n", ("", "yes")),
    _script("a_byte_order_mark_in_the_source", "\ufeffprint('yes')\n", ("", "yes")),
    _script("tabs_in_the_source", "if True:\n\tprint('yes')\n", ("", "yes")),
    _script("an_encoding_line", "# -*- coding: utf-8 -*-\nprint('é')\n", ("", "é")),
    _script(
        "match_statements_and_groups",
        "try:\n"
        "    raise ExceptionGroup('g', [ValueError(1)])\n"
        "except* ValueError:\n"
        "    pass\n"
        "match (1, [2]):\n"
        "    case (1, [x]):\n"
        "        print(f'{x=}')\n",
        ("", "x=2"),
    ),
    _script(
        "a_future_import",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(slots=True)\n"
        "class P:\n"
        "    x: Missing\n"
        "print(P(1))\n",
        ("", "P(x=1)"),
    ),
    _script(
        "a_program_named_like_a_module",
        "import sys\nclass judge:\n    pass\nframes = values = program = rpc = cell = kernel = 1\nprint(frames)\n",
        ("", "1"),
    ),
    _script("fifty_cases", "print(int(input()) ** 2)\n", *[(str(i), str(i * i)) for i in range(50)]),
    # Functions
    _honest(
        "a_method_of_a_class",
        call(
            "class Solution:\n"
            "    def __init__(self):\n"
            "        self.seen = []\n"
            "    def add(self, a, b):\n"
            "        self.seen.append(a)\n"
            "        return a + b + len(self.seen) - 1\n",
            "add",
            ([1, 2], 3),
            ([5, 5], 10),
            cls="Solution",
        ),
    ),
    _honest("a_tuple_for_a_list", call("def f(n):\n    return n, n + 1\n", "f", ([1], [1, 2]))),
    _honest("nothing_comes_back", call("def f(x):\n    pass\n", "f", ([1], None))),
    _honest(
        "every_kind_of_json",
        call(
            "def f(x):\n    return x\n",
            "f",
            *[
                ([value], value)
                for value in (None, True, False, 0, -1.5, "", "é\u0000\u2028", [], [[1], {}], {"a": [None]}, 2**70)
            ],
        ),
    ),
    _honest("big_integers_come_back", call("def f(n):\n    return 7 ** n\n", "f", ([400], 7**400))),
    _honest(
        "five_hundred_kilobytes_come_back",
        call("def f(n):\n    return list(range(n))\n", "f", ([60_000], list(range(60_000)))),
    ),
    _honest(
        "a_large_argument",
        call("def f(items):\n    return sum(items)\n", "f", ([list(range(60_000))], sum(range(60_000)))),
    ),
    _honest(
        "prints_while_it_works", call("def f(x):\n    print('debug', x, flush=True)\n    return x + 1\n", "f", ([1], 2))
    ),
    _honest("reads_no_input", call("import sys\ndef f():\n    return sys.stdin.read()\n", "f", ([], ""))),
    _honest("fifty_calls", call("def f(n):\n    return n * n\n", "f", *[([i], i * i) for i in range(50)])),
    _honest(
        "a_check_with_messages",
        check(
            "def square(x):\n    return x * x\n",
            "square",
            "METADATA = {'author': 'x'}\n"
            "\n"
            "def check(candidate):\n"
            "    assert candidate(2) == 4, 'first'\n"
            "    assert True, 'This prints if this assert fails'\n"
            "    assert abs(candidate(1.5) - 2.25) < 1e-6\n"
            "    for x in range(100):\n"
            "        assert candidate(x) == x ** 2\n",
        ),
    ),
    _honest(
        "a_check_that_calls_a_helper",
        check(
            "def encode(s):\n    return s[::-1]\n\ndef decode(s):\n    return encode(s)\n",
            "decode",
            "def check(candidate):\n"
            "    import random\n"
            "    for _ in range(20):\n"
            "        s = ''.join(random.choices('abc', k=10))\n"
            "        assert candidate(encode(s)) == s\n",
        ),
    ),
    _honest(
        "defines_check_itself",
        check(
            "def check(x):\n    return x > 0\n\ndef f(x):\n    return check(x)\n",
            "f",
            "def check(candidate):\n    assert candidate(1) is True\n    assert candidate(-1) is False\n",
        ),
    ),
    _honest(
        "defines_candidate_itself",
        check(
            "candidate = 3\ndef f():\n    return candidate\n",
            "f",
            "def check(candidate):\n    assert candidate() == 3\n",
        ),
    ),
    _function(
        "floats_come_back",
        "def f():\n    return 0.1 + 0.2\n",
        "assert f() == 0.30000000000000004",
        "assert abs(f() - 0.3) < 1e-9",
    ),
    _function(
        "sets_come_back",
        "def f(xs):\n    return set(xs)\n",
        "assert f([1, 2, 2]) == {1, 2}",
        "assert f((1,)) == set([1])",
        "assert frozenset(f([3])) == frozenset({3})",
    ),
    _function(
        "tuples_stay_tuples",
        "def f(x):\n    return (x, [x, (x,)])\n",
        "assert f(1) == (1, [1, (1,)])",
        "assert isinstance(f(1), tuple)",
        "assert f(1) != [1, [1, (1,)]]",
    ),
    _function("none_comes_back", "def f():\n    return None\n", "assert f() is None", "assert f() == None"),
    _function(
        "booleans_stay_booleans",
        "def f(x):\n    return x > 1\n",
        "assert f(2) is True",
        "assert f(0) is False",
        "assert f(2) == 1",
    ),
    _function(
        "keys_of_any_kind",
        "def f():\n    return {(1, 2): [3], None: 'x', 4: {5}}\n",
        "assert f() == {(1, 2): [3], None: 'x', 4: {5}}",
    ),
    _function(
        "counters_and_defaultdicts",
        "from collections import Counter, defaultdict\n"
        "def f(s):\n"
        "    return Counter(s)\n"
        "def g(s):\n"
        "    d = defaultdict(int)\n"
        "    for c in s:\n"
        "        d[c] += 1\n"
        "    return d\n",
        "assert f('aab') == {'a': 2, 'b': 1}",
        "assert g('aab') == {'a': 2, 'b': 1}",
    ),
    _function(
        "a_generator_comes_back",
        "def f(n):\n    for i in range(n):\n        yield i\n",
        "assert list(f(3)) == [0, 1, 2]",
    ),
    _function("a_map_comes_back", "def f(xs):\n    return map(str, xs)\n", "assert list(f([1, 2])) == ['1', '2']"),
    _function(
        "strings_of_any_kind",
        "def f():\n    return 'é\\n\\0\\U0001f389\\u2028'\n",
        "assert f() == 'é\\n\\0\\U0001f389\\u2028'",
    ),
    _function("bytes_come_back", "def f():\n    return b'\\xff\\x00'\n", "assert f() == b'\\xff\\x00'"),
    _function("complex_numbers_come_back", "def f(x):\n    return complex(0, x)\n", "assert f(2) == 2j"),
    _function(
        "infinity_comes_back", "def f():\n    return float('inf')\n", "assert f() == float('inf')", "assert -f() < 0"
    ),
    _function(
        "expected_exceptions",
        "def f(x):\n    if x < 0:\n        raise ValueError('negative')\n    return x\n",
        "assert raised()",
        setup=(
            "def raised():\n"
            "    try:\n"
            "        f(-1)\n"
            "    except ValueError as error:\n"
            "        return 'negative' in str(error)\n"
            "    return False\n"
        ),
    ),
    _function(
        "objects_made_by_the_tests",
        "class Node:\n"
        "    def __init__(self, value):\n"
        "        self.value, self.left, self.right = value, None, None\n"
        "\n"
        "def depth(root):\n"
        "    return 0 if root is None else 1 + max(depth(root.left), depth(root.right))\n",
        "assert depth(root) == 3",
        "assert depth(root.left) == 2",
        setup="root = Node(1)\nroot.left = Node(2)\nroot.right = Node(3)\nroot.left.left = Node(4)\n",
    ),
    _function(
        "functions_as_arguments",
        "def apply(function, xs):\n    return [function(x) for x in xs]\n",
        "assert apply(lambda x: x + 1, [1, 2]) == [2, 3]",
        "assert apply(len, ['a', 'bb']) == [1, 2]",
    ),
    _function("functions_come_back", "def adder(n):\n    return lambda x: x + n\n", "assert adder(2)(3) == 5"),
    _function(
        "state_between_calls",
        "count = 0\ndef f():\n    global count\n    count += 1\n    return count\n",
        "assert f() >= 1",
        "assert f() > 0",
    ),
    _function(
        "state_within_one_test",
        "items = []\ndef f(x):\n    items.append(x)\n    return len(items)\n",
        "assert f(1) < f(2) < f(3)",
    ),
    _function(
        "mutable_defaults",
        "def f(x, seen=[]):\n    seen.append(x)\n    return seen[-1]\n",
        "assert f(1) == 1",
        "assert f(2) == 2",
    ),
    _function(
        "cached_functions",
        "from functools import lru_cache\n"
        "@lru_cache(maxsize=None)\n"
        "def fib(n):\n"
        "    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
        "assert fib(90) == 2880067194370816120",
    ),
    _function(
        "recursion_five_thousand_deep",
        "import sys\nsys.setrecursionlimit(10_000)\ndef f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\n",
        "assert f(5000) == 5000",
    ),
    _function(
        "keyword_arguments",
        "def f(a, *rest, b=2, **more):\n    return a, rest, b, more\n",
        "assert f(1, 3, b=4, c=5) == (1, (3,), 4, {'c': 5})",
    ),
    _function("fifty_asserts", "def f(n):\n    return n * n\n", *[f"assert f({i}) == {i * i}" for i in range(50)]),
    _function(
        "modules_used_by_the_tests",
        "import math\ndef f(x):\n    return math.sqrt(x)\n",
        "assert math.isclose(f(2), math.sqrt(2))",
        setup="import math\n",
    ),
    _function("globals_used_by_the_tests", "LIMIT = 7\ndef f():\n    return LIMIT\n", "assert f() == LIMIT"),
    _function(
        "a_dataclass_comes_back",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f():\n    return P(3)\n",
        "assert f().x == 3",
    ),
    _function("prints_nothing_wrong_with_it", "def f(x):\n    print('PASS')\n    return x\n", "assert f(1) == 1"),
    _function(
        "a_main_guard_is_run_or_not",
        "def f():\n    return 1\n\nif __name__ == '__main__':\n    print(f())\n",
        "assert f() == 1",
    ),
    _function(
        "an_async_function_inside",
        "import asyncio\n"
        "async def g():\n"
        "    await asyncio.sleep(0)\n"
        "    return 3\n"
        "def f():\n"
        "    return asyncio.run(g())\n",
        "assert f() == 3",
    ),
    _honest(
        "suffix_right", suffix("python", "def square(x):\n    return x * x\n", "assert square(2) == 4\n", "square")
    ),
]
