"""CPU and wall time of a graded program: the sandbox against bare processes and bubblewrap, in turn, in one run.

CPU is that of the whole process tree (user and system): of a bare process all that it starts; of the sandbox the host's
thread, the zygote and every cell. Time that the kernel spends outside any process (taking network namespaces down) is
on nobody's clock. Contenders take turns, round by round; the ratio of the medians is what counts on a shared machine.

  fork           fork and exit of this process's smallest child: what no program can be cheaper than
  bare           subprocess.run([python, "-I", "-S", FILE]): the cheapest start of the same interpreter, not isolated
  bare, plain    subprocess.run([python, FILE]): with the site-packages that the interpreter happens to have
  bubblewrap     bwrap with fresh namespaces around the bare one, if it is installed
  ours           the sandbox in full (tier 2): fresh namespaces, seccomp, Landlock, cgroup, outputs compared

With 20 tests a bare process is started per test, as is a bwrap; ours has one cell and forks in it.

Languages: every program is another one. Cold: a fresh compiler as a bare process (g++ -O2 with the same header as the
program names; javac; tsc). Warm: the sandbox's own, its start included in `first`, not in the mean.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.arguments import LineParser
from evaluator.sandbox.grader import CodeGrader
from evaluator.sandbox.jail import base_interpreter
from evaluator.sandbox.job import CodeJob

PROGRAM = "a, b = map(int, input().split())\nprint(a + b)\n"
FUNCTION = "def add(a, b):\n    return a + b\n"
PR_SET_CHILD_SUBREAPER = 36
TICK = os.sysconf("SC_CLK_TCK")
CONTAINER = """
    --unshare-all --die-with-parent --new-session --cap-drop ALL --clearenv --proc /proc --dev /dev
    --tmpfs /tmp --chdir /tmp
    --ro-bind /usr /usr --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/bin /bin
""".split()  # noqa: SIM905

Round = Callable[[], int]  # runs some programs; returns how many tests that were


def main() -> None:
    parser = LineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender (default 7)")
    parser.add_argument("--programs", type=int, default=20, help="programs a turn (default 20)")
    parser.add_argument("--languages", action="store_true", help="compilers too (two minutes more)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    options = parser.parse_args()
    if options.rounds < 1 or options.programs < 1:
        parser.error("--rounds and --programs: at least 1")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans' CPU time is counted too
    load = os.getloadavg()[0]
    figures: dict[str, Any] = {"load_average_before": load}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        graders = {workers: stack.enter_context(CodeGrader(workers)) for workers in (1, 2, 4)}
        show_python(figures, Path(folder), graders, options)
        if options.languages:
            show_languages(figures, Path(folder), graders[1])
    print(f"\nload average before: {load:.2f}; {os.cpu_count()} cores")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def show_python(figures: dict[str, Any], folder: Path, graders: dict[int, CodeGrader], options: Any) -> None:
    """Python programs: every contender, then the ratios that issue 3 bounds."""
    num = options.programs
    script = folder / "main.py"
    script.write_text(PROGRAM)
    python = base_interpreter()
    contenders: dict[str, Round] = {
        "fork": lambda: forks(num),
        "bare": lambda: bare([python, "-I", "-S", str(script)], num),
        "bare, plain": lambda: bare([python, str(script)], num),
    }
    if bwrap := shutil.which("bwrap"):
        prefix = str(Path(python).parents[1])
        binds = [] if prefix == "/usr" else ["--ro-bind", prefix, prefix]
        inside = [bwrap, *CONTAINER, *binds, "--ro-bind", str(script), "/main.py", python, "-I", "-S", "/main.py"]
        contenders["bubblewrap"] = lambda: bare(inside, num)
    for workers, grader in graders.items():
        contenders[f"ours, stdio, {workers} at once"] = lambda g=grader: ours(g, [stdio_job(1)] * num)  # type: ignore[misc]
    one = graders[1]
    contenders |= {
        "ours, call": lambda: ours(one, [call_job(1)] * num),
        "ours, assert": lambda: ours(one, [assert_job()] * num),
        "ours, asserts": lambda: ours(one, [asserts_job(1)] * num),
        "ours, stdio, 20 tests": lambda: ours(one, [stdio_job(20)] * max(1, num // 10)),
        "ours, call, 20 tests": lambda: ours(one, [call_job(20)] * max(1, num // 10)),
        "ours, asserts, 20 tests": lambda: ours(one, [asserts_job(20)] * max(1, num // 10)),
    }
    times = take_turns(contenders, list(graders.values()), options.rounds)
    base = times["bare"][0]
    print(f"\nper test, medians of {options.rounds} turns of {num} programs\n")
    print(f"{'':28}{'CPU, ms':>9}{'wall, ms':>10}{'CPU against bare':>18}")
    for name, (cpu, wall) in times.items():
        print(f"{name:28}{cpu * 1e3:9.2f}{wall * 1e3:10.2f}{cpu / base:17.2f}x")
    figures["python"] = {
        name: {"cpu_s": cpu, "wall_s": wall, "against_bare": cpu / base} for name, (cpu, wall) in times.items()
    }
    print("\nasked for: stdio at most 1.0x, call and assert at most 1.5x, 20 tests at most 0.5x each")


def take_turns(contenders: dict[str, Round], graders: list[CodeGrader], rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall seconds per test of each contender."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()  # first calls: files read into memory, cgroups made
    for number in range(rounds):
        for name, contender in contenders.items():
            cpu, wall = cpu_seconds(graders), time.perf_counter()
            tests = contender()
            wall_s = time.perf_counter() - wall
            found[name].append(((cpu_seconds(graders) - cpu) / tests, wall_s / tests))
        if sys.stderr.isatty():
            print(f"\rround {number + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    return {
        name: (statistics.median(cpu for cpu, _ in all_), statistics.median(wall for _, wall in all_))
        for name, all_ in found.items()
    }


def cpu_seconds(graders: list[CodeGrader]) -> float:
    """CPU seconds of this process, of what it has waited for, of the zygotes and of the cells that they have reaped."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    for grader in graders:
        assert grader.jail.pid is not None
        for pid in tree(grader.jail.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / TICK
    return total


def tree(root: int) -> list[int]:
    """A zygote and what lives below it: judges' cells, warm compilers."""
    found = [root]
    for pid in found:
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def forks(num: int) -> int:
    """Children that end at once."""
    for _ in range(num):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return num


def bare(argv: list[str], num: int) -> int:
    """Processes whose output is checked."""
    for _ in range(num):
        done = subprocess.run(argv, input=b"1 2\n", capture_output=True, check=True)
        assert done.stdout == b"3\n", done.stdout
        with contextlib.suppress(ChildProcessError):  # bwrap does not wait for its own child
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    return num


def ours(grader: CodeGrader, jobs: list[CodeJob]) -> int:
    """Jobs, as many at once as the grader has slots."""
    results = [future.result() for future in [grader.submit(job) for job in jobs]]
    assert all(result.verdict == "pass" for result in results), results
    return sum(result.total for result in results)


def stdio_job(tests: int) -> CodeJob:
    cases = [{"stdin": "1 2\n", "expected": "3"}] * tests
    return job("python", PROGRAM, {"kind": "stdio", "cases": cases})


def call_job(tests: int) -> CodeJob:
    return job(
        "python", FUNCTION, {"kind": "call", "entry_point": "add", "cases": [{"args": [1, 2], "expected": 3}] * tests}
    )


def assert_job() -> CodeJob:
    return job(
        "python", FUNCTION, {"kind": "assert", "entry_point": "add", "code": "def check(f):\n    assert f(1, 2) == 3\n"}
    )


def asserts_job(tests: int) -> CodeJob:
    return job("python", FUNCTION, {"kind": "asserts", "code": ["assert add(1, 2) == 3"] * tests})


def job(language: str, source: str, tests: dict[str, Any]) -> CodeJob:
    return CodeJob.model_validate({"language": language, "source": source, "tests": tests})


# --- languages -------------------------------------------------------------------------------------------------------

NUM_PROGRAMS = 24


def cpp_source(number: int, header: str = "bits/stdc++.h") -> str:
    return f"""#include <{header}>
#include <string>
#include <vector>
using namespace std;
long long f{number}(const vector<long long>& v) {{
    long long total = {number};
    for (size_t i = 0; i < v.size(); i++) total = (total * {31 + number} + v[i]) % 1000000007LL;
    return total;
}}
int main() {{
    vector<long long> v; string s = "{number}"; long long n, x; cin >> n;
    while (n-- && cin >> x) v.push_back(x);
    cout << f{number}(v) + (long long)s.size() << endl;
}}
"""


def java_source(number: int) -> str:
    return f"""import java.util.*;
public class Main {{
    static long f{number}(List<Long> values) {{
        Map<Long, Integer> seen = new TreeMap<>();
        long total = {number};
        for (long value : values) {{ seen.merge(value, 1, Integer::sum); total = total * {31 + number} + value; }}
        return total + seen.size();
    }}
    public static void main(String[] arguments) {{
        Scanner in = new Scanner(System.in);
        List<Long> values = new ArrayList<>();
        for (int n = in.nextInt(); n > 0; n--) values.add(in.nextLong());
        System.out.println(f{number}(values));
    }}
}}
"""


def typescript_source(number: int) -> str:
    return f"""declare var require: any;
interface Item{number} {{ value: number; label: string }}
function f{number}(values: number[]): number {{
    const items: Item{number}[] = values.map((value, i) => ({{ value, label: `item ${{i}}` }}));
    return items.reduce((total, item) => (total * {31 + number} + item.value + item.label.length) % 100003, {number});
}}
const words: string[] = require("fs").readFileSync(0, "utf8").split(/\\s+/);
console.log(f{number}(words.slice(1).map(Number)));
"""


COLD: dict[str, tuple[str, Callable[[int], str], list[str]]] = {
    "cpp": ("main.cpp", cpp_source, ["g++", "-std=gnu++17", "-O2", "-w", "main.cpp", "-o", "program"]),
    "cpp, <iostream> only": (
        "main.cpp",
        lambda number: cpp_source(number, "iostream"),
        ["g++", "-std=gnu++17", "-O2", "-w", "main.cpp", "-o", "program"],
    ),
    "java": ("Main.java", java_source, ["javac", "-proc:none", "-nowarn", "Main.java"]),
    "typescript": ("main.ts", typescript_source, ["tsc", "--target", "es2022", "--module", "commonjs", "main.ts"]),
}


def show_languages(figures: dict[str, Any], folder: Path, grader: CodeGrader) -> None:
    """Compile `NUM_PROGRAMS` different programs cold and warm, in turn."""
    figures["languages"] = {}
    print(f"\ncompilation, CPU ms per program, {NUM_PROGRAMS} different programs\n")
    print(f"{'':24}{'cold':>9}{'warm':>9}{'first':>9}{'cold / warm':>14}")
    for number, (name, (file, source_of, argv)) in enumerate(COLD.items()):
        if shutil.which(argv[0]) is None:
            print(f"{name:24} {argv[0]} is not installed (make evaluator-languages)")
            continue
        language = name.partition(",")[0]
        work = folder / f"cold-{number}"
        work.mkdir()
        cold, warm = [], []
        for serial in range(NUM_PROGRAMS):
            source = source_of(100 * number + serial)
            (work / file).write_text(source)
            before = cpu_seconds([])
            subprocess.run(argv, cwd=work, capture_output=True, check=True)
            cold.append(cpu_seconds([]) - before)
            warm.append(compile_warm(grader, language, source))
        figure = {"cold_s": statistics.mean(cold), "warm_s": statistics.mean(warm[1:]), "first_s": warm[0]}
        ratio = figure["cold_s"] / figure["warm_s"]
        figures["languages"][name] = {**figure, "ratio": ratio}
        print(f"{name:24}{figure['cold_s'] * 1e3:9.0f}{figure['warm_s'] * 1e3:9.0f}{warm[0] * 1e3:9.0f}{ratio:13.1f}x")
    print("\nasked for: at least 3x for Java, TypeScript and C++")


def compile_warm(grader: CodeGrader, language: str, source: str) -> float:
    """CPU seconds of a compilation as the sandbox makes it."""
    return grader.compile_only(job(language, source, {"kind": "stdio", "cases": [{"stdin": "", "expected": ""}]}))


if __name__ == "__main__":
    main()
