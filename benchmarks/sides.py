"""What both training benchmarks share: real `zeroq run`s, their clocks, and one evaluator for every saved checkpoint.

    start_model ── run_zeroq ── read_training ──> steps with times and tokens ──┐
                                                  checkpoints ── curve ──> time_to_target, table

Clocks start where training starts: processes, engines and graders are up by then, on every side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psutil

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "recipes" / "configs" / "cpu_demo.yaml"
EXIT_USER_ERROR = 2
_POLL_S = 0.05

Curve = list[tuple[float, float]]
"""(seconds of training, held-out pass@1), in order of time."""


@dataclass
class Side:
    """What was measured of one side. Seconds count from the start of training."""

    name: str
    steps: list[float] = field(default_factory=list)
    """When each step was done."""
    tokens: list[int] = field(default_factory=list)
    """Completion tokens trained in each step."""
    checkpoints: dict[int, str] = field(default_factory=dict)
    curve: Curve = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Training time of all steps."""
        return self.steps[-1] if self.steps else math.nan

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens trained per second of training."""
        return sum(self.tokens) / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Everything, with the sums."""
        return asdict(self) | {"seconds": self.seconds, "tokens_per_s": self.tokens_per_s}


@dataclass(frozen=True)
class Judge:
    """How checkpoints are judged: k samples of each held-out problem. The same for every side."""

    problems: Path
    samples: int = 4
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 48
    seed: int = 0
    threads: int = 1
    """Two threads wait for each other when anything else wants a core."""


# ---------------------------------------------------------------- pure


def time_to_target(curve: Curve, target: float) -> float | None:
    """When pass@1 first reached `target`, on straight lines between measurements; None if it never did."""
    before: tuple[float, float] | None = None
    for seconds, value in curve:
        if value >= target:
            if before is None or value == before[1]:
                return seconds
            share = (target - before[1]) / (value - before[1])
            return before[0] + share * (seconds - before[0])
        before = (seconds, value)
    return None


def settled_rate(side: Side) -> float:
    """Completion tokens per second after the first steps (5, or a third of them), which warm caches and compilers."""
    skipped = min(5, max(1, len(side.steps) // 3))
    return sum(side.tokens[skipped:]) / (side.steps[-1] - side.steps[skipped - 1])


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """ours / theirs; None when either is missing or theirs is 0."""
    if ours is None or theirs is None or not theirs:
        return None
    return ours / theirs


def shown(value: float | None, digits: int = 2, unit: str = "") -> str:
    """For a table; a dash where there is nothing."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}{unit}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def training_of(name: str, metrics: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> Side:
    """A zeroq run's side, from the objects of metrics.jsonl and events.jsonl. Its clock starts when training may take
    groups and an actor holds weights, whichever comes last."""
    training = next(float(e["time"]) for e in events if e["event"] == "phase" and e["name"] == "training")
    began = max(training, next(float(e["time"]) for e in events if e["event"] == "actor_ready"))
    side = Side(name, about={"training_began": began})
    for row in metrics:
        side.steps.append(float(row["time"]) - began)
        side.tokens.append(sum(row["sample/staleness_histogram"].values()))
    return side


# ---------------------------------------------------------------- zeroq


def fail(text: str) -> NoReturn:
    """The user's error: one line, exit code 2."""
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR)


def run_zeroq(
    config: Path, out: Path, name: str, overrides: Sequence[str], *, watch: Callable[[Path], None] | None = None
) -> Path:
    """A real `zeroq run` in `out`/`name`, its output in `out`/`name`.log; returns the run's directory.

    `watch(run directory)` is called about 20 times a second meanwhile. RuntimeError with the last lines if it fails.
    """
    arguments = [str(config), f"run.dir={out}", f"run.name={name}", *overrides]
    log = out / f"{name}.log"
    print(f"  zeroq run {' '.join(arguments)}", flush=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", "run", *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                if watch is not None:
                    watch(out / name)
                time.sleep(_POLL_S)
        except BaseException:
            process.terminate()
            process.wait(60)
            raise
    if process.returncode:
        last = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        raise RuntimeError(f"zeroq run ended with {process.returncode}; {log} ends:\n{last}")
    return out / name


def start_model(options: argparse.Namespace, out: Path) -> Path:
    """`--start`, or the cold start of a run of one step."""
    if options.start is not None:
        return Path(options.start).resolve()
    print("cold start (--start DIR uses an existing one)", flush=True)
    run = run_zeroq(options.config, out, "start", [f"seed={options.seed}", "learner.max_steps=1"])
    return run / "checkpoints" / "step-0"


def training_overrides(options: argparse.Namespace, start: Path, seed: int) -> list[str]:
    """Settings of a measured run: from `start`, without another cold start, all checkpoints kept."""
    return [
        f"model={start}",
        f"seed={seed}",
        "cold_start.steps=0",
        f"learner.max_steps={options.steps}",
        f"learner.checkpoint_every_steps={options.every}",
        "learner.keep_checkpoints=1000",
    ]


def read_training(name: str, run: Path) -> Side:
    """A finished run's side, with its checkpoints."""
    side = training_of(name, read_lines(run / "metrics.jsonl"), read_lines(run / "events.jsonl"))
    for path in (run / "checkpoints").glob("step-*"):
        side.checkpoints[int(path.name.removeprefix("step-"))] = str(path)
    side.about["run"] = str(run)
    return side


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


# ---------------------------------------------------------------- judging


def judge_sides(sides: Sequence[Side], start: Path, judge: Judge, target: float) -> None:
    """Fill the curves. Of each side: the start, checkpoints until two in a row reach the target, and the last one."""
    first = pass_at_1(start, judge)
    print(f"  start: pass@1 {first:.3f}", flush=True)
    for side in sides:
        side.curve = [(0.0, first)]
        reached = 0
        for step in sorted(s for s in side.checkpoints if 0 < s <= len(side.steps)):
            if reached >= 2 and step != max(side.checkpoints):
                continue
            value = pass_at_1(Path(side.checkpoints[step]), judge)
            print(f"  {side.name}, step {step}, {side.steps[step - 1]:.1f} s: pass@1 {value:.3f}", flush=True)
            side.curve.append((side.steps[step - 1], value))
            reached = reached + 1 if value >= target else 0


def pass_at_1(model: Path, judge: Judge) -> float:
    """Mean over problems and samples, sampled by transformers and graded by zeroq's evaluator."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from common.config import load_config
    from evaluator.compose import grade_group

    reward = load_config(judge.problems.parent.parent / "config.yaml").reward
    problems = read_lines(judge.problems)
    logging.disable_progress_bar()
    torch.set_num_threads(judge.threads)
    torch.manual_seed(judge.seed)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    widest = max(len(problem["prompt_ids"]) for problem in problems)
    padded = [[tokenizer.pad_token_id] * (widest - len(p["prompt_ids"])) + p["prompt_ids"] for p in problems]
    mask = [[0] * (widest - len(p["prompt_ids"])) + [1] * len(p["prompt_ids"]) for p in problems]
    with torch.inference_mode():
        sampled = network.generate(
            input_ids=torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            do_sample=True,
            temperature=judge.temperature,
            top_p=judge.top_p,
            top_k=0,
            num_return_sequences=judge.samples,
            max_new_tokens=judge.max_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    texts = completion_texts(tokenizer, sampled[:, widest:].tolist())
    passed = 0
    for index, problem in enumerate(problems):
        own = texts[index * judge.samples : (index + 1) * judge.samples]
        passed += sum(v.outcome == "pass" for v in grade_group(problem["prompt"], own, problem["spec"], reward))
    return passed / len(texts)


def completion_texts(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
    """Completions as zeroq's actors decode them: up to the end token, special tokens kept."""
    end = tokenizer.eos_token_id
    cut = [list(row[: row.index(end) + 1]) if end in row else list(row) for row in ids]
    return [str(text) for text in tokenizer.batch_decode(cut, skip_special_tokens=False)]


# ---------------------------------------------------------------- machine


class Load:
    """How much of the machine others used while something was measured: busy cores, less our own children's."""

    def __init__(self) -> None:
        self.before = f"{os.getloadavg()[0]:.2f}"
        self.busy_before_pct = psutil.cpu_percent(1.0)
        self._began, self._busy, self._own = time.monotonic(), _busy_s(), _children_s()

    def report(self) -> dict[str, Any]:
        """Since the object was made."""
        wall = time.monotonic() - self._began
        own = (_children_s() - self._own) / wall
        return {
            "load_average_before": float(self.before),
            "busy_before_pct": self.busy_before_pct,
            "cores_used_by_us": round(own, 2),
            "cores_used_by_others": round(max(0.0, (_busy_s() - self._busy) / wall - own), 2),
        }


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _children_s() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF))
    )


# ---------------------------------------------------------------- command line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of both benchmarks."""
    parser.add_argument("--start", metavar="DIR", help="cold-started model; default: make one (some 3 minutes)")
    parser.add_argument("--seed", type=int, default=0, help="of data and training; the one --start was made with")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each side (default 60)")
    parser.add_argument("--every", type=int, default=5, help="steps between judged checkpoints (default 5)")
    parser.add_argument("--target", type=float, default=0.75, help="held-out pass@1 to reach (default 0.75)")
    parser.add_argument("--config", type=Path, default=DEMO, help="zeroq configuration (default: the CPU demo's)")
    parser.add_argument("--out", type=Path, help="directory for both sides; must not exist; default: runs/bench-TIME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings of zeroq runs, such as data.eval_size=40"
    )


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """Refuse what cannot work, before minutes are spent; makes the directory `out`."""
    if options.start is not None and not (Path(options.start) / "config.json").is_file():
        fail(f"--start {options.start}: no model there (config.json is missing); leave --start out to make one")
    if not 0 < options.target < 1:
        fail(f"--target {options.target}: pass@1 is between 0 and 1")
    if options.seed < 0 or options.steps < 2 or options.every < 1:
        fail("--seed must be at least 0, --steps 2, --every 1")
    if not options.config.is_file():
        fail(f"--config {options.config}: no such file; see {DEMO.parent}")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        fail(f"--json {options.json}: its directory does not exist")
    options.config = options.config.resolve()
    options.out = (options.out or Path("runs") / time.strftime("bench-%Y%m%d-%H%M%S")).resolve()
    if options.out.exists():
        fail(f"--out {options.out}: exists already; name another")
    options.out.mkdir(parents=True)
    return options


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write the figures where `--json` says."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
