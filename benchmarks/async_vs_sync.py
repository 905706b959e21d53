"""zeroq synchronous (learner.max_staleness=0) and asynchronous (2, its default) on the same problem, back to back.

Both are real `zeroq run`s from the same cold-started model with the same seed, without in-loop evaluations, so that
actor and learner do nothing but the job. Held-out pass@1 (T 0.6, top-p 0.95, 4 samples of 200 problems) is measured
afterwards on saved checkpoints, by one sampler, on no clock. Clocks start at the first step.

Idle fractions, of the time of training:
  learner   time in which it waited for groups: the sum of time/wait_s in metrics.jsonl
  actor     share of samples, 20 a second, in which the broker had no generation lease given out: the actor had nothing
            to do. A lease is held until its group is handed in, so an actor whose last stragglers sample in small
            batches counts as busy. Beside it: the processor time of the actor's processes (front end and vLLM's engine)
            per second, in cores.

What to expect on 2 cores: the actor's engine has one core, the learner's single thread the other. Synchronous, they
take turns: a step lasts actor + learner + what lies between. Asynchronous, both work all the time, and a step lasts as
long as the busier of the two: with equal shares that is at best 2x, and broker, evaluator and the actor's front end
need a part of the same two cores. The printed bound is computed from the synchronous run: the time of a step over the
larger of actor-busy and learner-busy time. Tokens up to 2 publishes old may teach less each, so that the gain in time
to a pass@1 can be smaller than the gain in tokens/s; the mean staleness is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
from sides import (
    Judge,
    Load,
    Side,
    add_options,
    checked,
    judge_sides,
    ratio,
    read_lines,
    read_training,
    run_zeroq,
    settled_rate,
    shown,
    start_model,
    table,
    time_to_target,
    training_overrides,
    write_json,
)

from common.arguments import LineParser
from common.client import BrokerClient
from common.config import load_config
from common.errors import BrokerUnavailable
from common.keys import Keys
from common.lifecycle import RunPaths
from common.messages import GetStatus, StatusReport
from common.wire import Envelope

EPILOG = """\
examples:

  python benchmarks/async_vs_sync.py                            all of it: cold start and both runs, about 10 minutes
  python benchmarks/async_vs_sync.py --start runs/NAME/checkpoints/step-0 --seed 2 --json async.json
  python benchmarks/async_vs_sync.py --start DIR --staleness 0 1 2 4                     more than two settings
  python benchmarks/async_vs_sync.py --start DIR --steps 4 --every 2 data.eval_size=40   does it work?

Use an idle machine: how busy it was is printed. Exit codes: 0 success, 1 a run failed, 2 wrong input."""

_CPU_EVERY_S = 0.5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = LineParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(made)
    made.add_argument(
        "--staleness", type=int, nargs="+", default=[0, 2], help="settings to run; the first is compared with (0 2)"
    )
    return made


class ActorWatch:
    """Samples what the actors do: (unix time, generation leases) and (unix time, processor seconds so far)."""

    def __init__(self) -> None:
        self.leases: list[tuple[float, int]] = []
        self.cpu: list[tuple[float, float]] = []
        self._client: BrokerClient | None = None
        self._question: Future[Envelope] | None = None
        self._actor: psutil.Process | None = None

    def __call__(self, run: Path) -> None:
        """Take a sample; nothing happens before the broker has bound its sockets."""
        try:
            self._sample_leases(run)
        except BrokerUnavailable:
            self._question = None  # starting or ending
        self._sample_cpu(run)

    def close(self) -> None:
        """Leave the broker."""
        if self._client is not None:
            self._client.close()

    def _sample_leases(self, run: Path) -> None:
        if self._client is None:
            endpoints = run / "endpoints.json"
            if not endpoints.exists():
                return
            keys = Keys.for_process(load_config(run / "config.yaml"), RunPaths(run), "monitor")
            self._client = BrokerClient(json.loads(endpoints.read_text())["monitor"], "monitor", "benchmark", keys=keys)
            self._client.hello()
        if self._question is not None and self._question.done():
            header = self._question.result().header
            if isinstance(header, StatusReport):
                self.leases.append((time.time(), int(header.status["leases"].get("generate", 0))))
            self._question = None
        if self._question is None:
            self._question = self._client.call(GetStatus())

    def _sample_cpu(self, run: Path) -> None:
        if self.cpu and time.time() - self.cpu[-1][0] < _CPU_EVERY_S:
            return
        try:
            if self._actor is None:
                record = run / "processes" / "actor-0.json"
                if not record.exists():
                    return
                self._actor = psutil.Process(json.loads(record.read_text())["pid"])
            times = [p.cpu_times() for p in (self._actor, *self._actor.children(recursive=True))]
        except (psutil.Error, ValueError):
            return
        self.cpu.append((time.time(), sum(t.user + t.system for t in times)))


def idle_share(samples: Sequence[tuple[float, int]], began: float, ended: float) -> float | None:
    """Share of the samples between `began` and `ended` in which nothing was leased; None without samples."""
    inside = [num for at, num in samples if began <= at <= ended]
    return sum(num == 0 for num in inside) / len(inside) if inside else None


def cores_used(samples: Sequence[tuple[float, float]], began: float, ended: float) -> float | None:
    """Processor seconds per second between the first and the last sample inside; None with fewer than two."""
    inside = [(at, used) for at, used in samples if began <= at <= ended]
    if len(inside) < 2:
        return None
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def staleness_mean(rows: Sequence[dict[str, Any]]) -> float:
    """Mean over trained tokens, in publishes."""
    total = weighted = 0
    for row in rows:
        for staleness, num in row["sample/staleness_histogram"].items():
            total += num
            weighted += int(staleness) * num
    return weighted / total if total else 0.0


def bound(step_s: float, actor_busy_s: float, learner_busy_s: float) -> float:
    """Most that overlapping can gain: the step taken in turns, over the busier side alone."""
    return step_s / max(actor_busy_s, learner_busy_s)


def measure(options: argparse.Namespace, start: Path, staleness: int) -> Side:
    """One run."""
    load, watch = Load(), ActorWatch()
    name = f"staleness-{staleness}"
    overrides = [
        *training_overrides(options, start, options.seed),
        f"learner.max_staleness={staleness}",
        "eval.every_steps=0",
    ]
    try:
        run = run_zeroq(options.config, options.out, name, [*overrides, *options.overrides], watch=watch)
    finally:
        watch.close()
    side = read_training(name, run)
    rows = read_lines(run / "metrics.jsonl")
    began = side.about["training_began"]
    window = began, began + side.seconds
    side.about |= {
        "load": load.report(),
        "learner_idle": sum(row["time/wait_s"] for row in rows) / side.seconds,
        "actor_idle": idle_share(watch.leases, *window),
        "actor_cores": cores_used(watch.cpu, *window),
        "lease_samples": len([at for at, _ in watch.leases if window[0] <= at <= window[1]]),
        "staleness_mean": staleness_mean(rows),
        "step_s": side.seconds / len(side.steps),
        "train_s": sum(row["time/train_s"] + row["time/pack_s"] for row in rows) / len(rows),
        "publish_s": sum(row.get("time/publish_s", 0.0) for row in rows) / len(rows),
        "queued_s": sum(row["sample/queued_s"] for row in rows) / len(rows),
    }
    return side


def report(sides: Sequence[Side], target: float) -> tuple[str, dict[str, Any]]:
    """The table and its figures; ratios are of the last side to the first."""
    first, last = sides[0], sides[-1]
    times = [time_to_target(side.curve, target) for side in sides]
    idle = first.about["actor_idle"]
    figures: dict[str, Any] = {
        "ratio_tokens_per_s": ratio(last.tokens_per_s, first.tokens_per_s),
        "ratio_tokens_per_s_warm": ratio(settled_rate(last), settled_rate(first)),
        "time_to_target_s": {side.name: t for side, t in zip(sides, times, strict=True)},
        "ratio_time_to_target": ratio(times[0], times[-1]),
        "target": target,
        "bound": None,
    }
    if idle is not None:
        step_s = first.about["step_s"]
        figures["bound"] = bound(step_s, step_s * (1 - idle), step_s * (1 - first.about["learner_idle"]))

    def row(title: str, values: Sequence[str], last: str = "") -> list[str]:
        return [title, *values, last]

    def about(key: str, digits: int, scale: float = 1.0) -> list[str]:
        found = [side.about[key] for side in sides]
        return [shown(None if value is None else value * scale, digits) for value in found]

    rows = [
        row("training, s", [shown(side.seconds, 1) for side in sides]),
        row(
            "trained tokens/s",
            [shown(side.tokens_per_s, 0) for side in sides],
            shown(figures["ratio_tokens_per_s"], 2, "x"),
        ),
        row(
            "trained tokens/s once warm",
            [shown(settled_rate(side), 0) for side in sides],
            shown(figures["ratio_tokens_per_s_warm"], 2, "x"),
        ),
        row(
            f"time to held-out pass@1 {target:g}, s",
            [shown(value, 1) for value in times],
            shown(figures["ratio_time_to_target"], 2, "x"),
        ),
        row("pass@1 at the end", [shown(side.curve[-1][1], 3) for side in sides]),
        row("learner idle, %", about("learner_idle", 0, 100)),
        row("actor idle (no lease), %", about("actor_idle", 0, 100)),
        row("actor, cores used", about("actor_cores", 2)),
        row("mean staleness, publishes", about("staleness_mean", 2)),
        row("a step, s", about("step_s", 2)),
        row("  of it training", about("train_s", 2)),
        row("  of it publishing", about("publish_s", 2)),
    ]
    return table(("", *(side.name for side in sides), "ratio"), rows), figures


def explain(sides: Sequence[Side], figures: dict[str, Any]) -> str:
    """What makes the ratio what it is, from the figures of this measurement."""
    first, last = sides[0], sides[-1]
    if figures["bound"] is None or len(sides) < 2:
        return ""
    stretched = last.about["train_s"] / first.about["train_s"]
    return (
        f"Taking turns, a step of {first.about['step_s']:.2f} s leaves the learner idle for "
        f"{first.about['learner_idle']:.0%} and the actor for {first.about['actor_idle']:.0%} of the time: "
        f"overlapping them could gain at most {figures['bound']:.2f}x if each kept its speed. It gained "
        f"{figures['ratio_tokens_per_s']:.2f}x: with both at work, training itself takes {stretched:.2f} times as "
        "long, because broker, evaluator and the actor's front end need the learner's core too (the engine is pinned "
        "to its own), and what remains idle is the wait of the faster side for the slower."
    )


def main() -> int:
    """Run all settings, print the table; the exit code."""
    options = checked(parser().parse_args())
    try:
        start = start_model(options, options.out)
        sides = []
        for staleness in options.staleness:
            print(f"learner.max_staleness={staleness}", flush=True)
            sides.append(measure(options, start, staleness))
        print("judging checkpoints", flush=True)
        problems = Path(sides[0].about["run"]) / "data" / "eval.jsonl"
        judge_sides(sides, start, Judge(problems, seed=options.seed), options.target)
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    text, figures = report(sides, options.target)
    print(f"\n{text}\n\n{explain(sides, figures)}\n")
    for side in sides:
        print(f"{side.name}: load {side.about['load']}")
    print("start-up is on no clock; there are no in-loop evaluations")
    write_json(options.json, {**figures, "start": str(start), "sides": [side.to_json() for side in sides]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
