"""Programs graded per second through the broker, by one and by two evaluator processes, in one run.

Everything on the way is real: a learner's client adds tasks with their tests, an actor's client submits groups of
completions, evaluators (`python -m evaluator`) lease them, run every program in the sandbox, and the learner's client
takes the graded groups. Each program is a completion with a fenced block, tested by three asserts in a judge's cell.

The limit that it is held against is measured in the same run: `subprocess.run([python, FILE])` with the same three
asserts in the file, nothing isolated, one after the other and as many at once as there are cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml

from common.arguments import LineParser
from common.client import BrokerClient
from common.config import load_config
from common.keys import Keys
from common.lifecycle import RunPaths, wait_for_endpoint
from common.messages import AddTask, Group, Lease, LeaseWork, Release, RolloutMeta, Sampling, SubmitGroup, Take
from evaluator.sandbox.jail import base_interpreter

ROOT = Path(__file__).resolve().parents[1]
GROUP_SIZE = 8
SOURCE = """def primes(n):
    return [p for p in range(2, n) if all(p % d for d in range(2, int(p ** 0.5) + 1))]
"""
ASSERTS = ["assert primes(2) == []", "assert primes(10) == [2, 3, 5, 7]", "assert len(primes(100)) == 25"]


def main() -> None:
    parser = LineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=40, help=f"groups of {GROUP_SIZE} programs a turn (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each pool (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    options = parser.parse_args()
    if options.groups < 1 or options.rounds < 1:
        parser.error("--groups and --rounds: at least 1")
    load = os.getloadavg()[0]
    rates: dict[str, list[float]] = {}
    for number in range(options.rounds):
        for workers in (1, os.cpu_count() or 1):
            rates.setdefault(f"bare, {workers} at once", []).append(
                bare_rate(workers, options.groups * GROUP_SIZE // 4)
            )
        for pool in (1, 2):
            with river(pool) as (learner, actor):
                pass_groups(learner, actor, 4 * pool, f"w{number}")  # first calls of every process
                rates.setdefault(f"{pool} evaluator(s)", []).append(
                    options.groups * GROUP_SIZE / pass_groups(learner, actor, options.groups, f"t{number}")
                )
    medians = {name: statistics.median(each) for name, each in rates.items()}
    print(
        f"\nprograms graded per second, medians of {options.rounds} turns of {options.groups} groups of {GROUP_SIZE}\n"
    )
    for name, rate in medians.items():
        print(f"{name:20}{rate:9.1f}   {[round(x, 1) for x in rates[name]]}")
    most = medians[f"bare, {os.cpu_count() or 1} at once"]
    print(f"\n2 evaluators against 1: {medians['2 evaluator(s)'] / medians['1 evaluator(s)']:.2f}x")
    print(f"2 evaluators against bare processes on all cores: {medians['2 evaluator(s)'] / most:.2f}x")
    print(f"load average before: {load:.2f}; {os.cpu_count()} cores")
    if options.json:
        options.json.write_text(json.dumps({"rates": rates, "medians": medians, "load": load}, indent=2) + "\n")


def bare_rate(workers: int, num: int) -> float:
    """Programs per second as bare processes, `workers` at once."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "main.py"
        script.write_text(SOURCE + "\n".join(ASSERTS) + "\n")
        argv = [base_interpreter(), "-I", "-S", str(script)]
        began = time.perf_counter()
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(lambda _: subprocess.run(argv, capture_output=True, check=True), range(num)))
        return num / (time.perf_counter() - began)


@contextlib.contextmanager
def river(num_evaluators: int) -> Iterator[tuple[BrokerClient, BrokerClient]]:
    """A broker, evaluators, and clients in the place of learner and actor."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = {
            "model": "none",
            "data": {"train": "none.jsonl"},
            "rollout": {"group_size": GROUP_SIZE},
            "evaluator": {"code": "on", "replicas": num_evaluators},
        }
        (Path(folder) / "config.yaml").write_text(yaml.safe_dump(config))
        log = stack.enter_context((Path(folder) / "log").open("wb"))
        names = ["broker", *(f"evaluator-{i}" for i in range(num_evaluators))]
        rooms = [
            subprocess.Popen(
                [sys.executable, "-m", name.partition("-")[0], "--run-dir", folder, "--name", name],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
            for name in names
        ]
        try:
            paths = RunPaths(Path(folder))
            settings = load_config(paths.config)
            learner = BrokerClient(
                wait_for_endpoint(paths, "learner"),
                "learner",
                "l",
                keys=Keys.for_process(settings, paths, "learner"),
                vocab_size=100,
                version=0,
            )
            actor = BrokerClient(
                wait_for_endpoint(paths, "actor"), "actor", "a", keys=Keys.for_process(settings, paths, "actor")
            )
            with learner, actor:
                learner.hello()
                actor.hello()
                yield learner, actor
        finally:
            for room in rooms:
                room.terminate()
            for room in rooms:
                room.wait(timeout=30)


def pass_groups(learner: BrokerClient, actor: BrokerClient, num: int, prefix: str) -> float:
    """Bring `num` groups through; seconds from the first task to the last graded group."""
    began = time.perf_counter()
    code = {"language": "python", "tests": {"kind": "asserts", "code": ASSERTS}}
    spec = json.dumps({"kind": "code", "code": code, "columns": {}}).encode()
    text = f"<think>trial division</think>\n```python\n{SOURCE}```\n".encode()
    rollout = RolloutMeta(num_tokens=1, text_bytes=len(text), finish_reason="stop")
    arrays = {
        "token_ids": np.zeros(GROUP_SIZE, np.int32),
        "logprobs": np.full(GROUP_SIZE, -0.5, np.float32),
        "versions": np.zeros(GROUP_SIZE, np.int32),
        "texts": text * GROUP_SIZE,
    }
    for index in range(num):
        header = AddTask(
            task_id=f"{prefix}-{index}", purpose="eval", group_size=GROUP_SIZE, sampling=Sampling(max_tokens=4)
        )
        learner.request(header, {"prompt_ids": np.array([1], np.int32), "prompt": b"primes?", "spec": spec})
        lease = actor.request(LeaseWork(kind="generate", wait_s=5.0, version=0)).header
        assert isinstance(lease, Lease), lease
        submit = SubmitGroup(
            lease_id=lease.lease_id, token=lease.token, task_id=lease.task_id, rollouts=[rollout] * GROUP_SIZE
        )
        actor.request(submit, arrays)
    for _ in range(num):
        group = learner.request(Take(purpose="eval", wait_s=60.0), timeout_s=120.0).header
        assert isinstance(group, Group), group
        assert all(verdict.outcome == "pass" for verdict in group.verdicts), group.verdicts
        learner.request(Release(task_ids=[group.task_id], outcome="trained"))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
