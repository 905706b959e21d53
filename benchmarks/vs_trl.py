"""The same GRPO job on this CPU with zeroq and with TRL's GRPOTrainer, one after the other: tokens/s, time to a pass@1.

Both sides start from the same cold-started model and train on the same problems in the same order, 16 a step, G = 8,
temperature 1, AdamW with the same betas, the same learning rate at every step, clip 0.2, no KL term, the mean over
sequences as the loss (TRL: loss_type "grpo"), the same seed, and rewards from the same function (zeroq's evaluator;
inside TRL it runs in the trainer's thread). What remains different: TRL divides by the sample standard deviation (ddof
1, eps 1e-4; zeroq: ddof 0, eps 1e-6), and random numbers.

zeroq is a real `zeroq run`: broker, evaluator, a vLLM actor on one core (compiled where there is a g++), a learner with
one thread on the other. Saving checkpoints stays on its clock, and so do in-loop evaluations if --eval-every asks for
them: an evaluation is 1,000 completions for the actor, as many as 8 steps. TRL runs in one process, generates all 128
completions of a step at once (transformers), trains on them in one batch, no gradient checkpointing, a fused AdamW, no
logging, saving or evaluation on its clock; float32 and bfloat16 (autocast) with 2 threads and float32 with 1 are tried
for some steps and the fastest is taken. TRL's vLLM mode is for GPUs.

zeroq's clock starts when training may begin and an actor holds weights, TRL's when training begins: processes, engines
and graders are up, nothing is sampled yet. Held-out pass@1 (T 0.6, top-p 0.95, 4 samples of 200 problems) is measured
afterwards on saved checkpoints of both sides, by one sampler, on no clock.

Two runs of one seed differ (asynchronous runs by up to 0.1 pass@1, and this kind of machine by 1.4x in speed), so one
pair proves little: --pairs N runs both sides N times, with seeds --seed, --seed + 1, ..., and prints every pair, the
median ratio and the ratio of the summed times.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sides import (
    ROOT,
    Judge,
    Load,
    Side,
    add_options,
    checked,
    fail,
    judge_sides,
    ratio,
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

EPILOG = """\
examples:

  python benchmarks/vs_trl.py                                  all of it: cold start, both sides, about 12 minutes
  python benchmarks/vs_trl.py --start runs/NAME/checkpoints/step-0 --seed 2 --json vs_trl.json
  python benchmarks/vs_trl.py --start DIR --pairs 5 --trl float32/2     five seeds of both sides, about 4 minutes each
  python benchmarks/vs_trl.py --start DIR --eval-every 10      zeroq evaluates while it trains, on its clock
  python benchmarks/vs_trl.py --start DIR --steps 4 --every 2 --trial-steps 2 data.eval_size=40       does it work?

Use an idle machine: the two sides run one after the other, and how busy the machine was is printed with each.
Needs the extra `bench` (make bench installs it). Exit codes: 0 success, 1 a side failed, 2 wrong input."""

TRIALS = (("float32", 2), ("bfloat16", 2), ("float32", 1))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = LineParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(made)
    made.add_argument(
        "--trl", metavar="DTYPE/THREADS", help="such as float32/2; default: try float32/2, bfloat16/2 and float32/1"
    )
    made.add_argument(
        "--pairs", type=int, default=1, help="times that both sides run, each with the next seed (default 1)"
    )
    made.add_argument("--trial-steps", type=int, default=8, help="steps of each trial (default 8)")
    made.add_argument(
        "--eval-every", type=int, default=0, help="steps between zeroq's in-loop evaluations (default: none)"
    )
    made.add_argument("--trl-limit-s", type=float, default=1800.0, help="stop TRL after this much training time")
    return made


def trl_job(options: argparse.Namespace, start: Path, run: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Run TRL's side in a process of its own; its result. RuntimeError with the last lines if it fails."""
    out = Path(options.out) / name
    job = {
        "start": str(start),
        "run": str(run),
        "out": str(out),
        "steps": options.steps,
        "schedule_steps": options.steps,
        "every": options.every,
        "limit_s": options.trl_limit_s,
        "accumulate": 1,
        **changes,
    }
    out.mkdir()
    path = out / "job.json"
    path.write_text(json.dumps(job, indent=1), encoding="utf-8")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job["threads"]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "0",
    }
    with (out / "log").open("w", encoding="utf-8") as log:
        code = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / "trl_side.py"), str(path)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        last = "\n".join((out / "log").read_text(encoding="utf-8").splitlines()[-15:])
        raise RuntimeError(f"TRL ended with {code}; {out / 'log'} ends:\n{last}")
    result: dict[str, Any] = json.loads(path.with_suffix(".out.json").read_text(encoding="utf-8"))
    return result


Setting = tuple[str, int, dict[str, float]]
"""TRL's type, number of threads, and the rates of what was tried."""


def best_setting(options: argparse.Namespace, start: Path, run: Path) -> Setting:
    """The fastest of TRL's types and numbers of threads, and the rates of those that were tried."""
    if options.trl is not None:
        dtype, threads = read_setting(options.trl)
        return dtype, threads, {}
    rates: dict[tuple[str, int], float] = {}
    for dtype, threads in TRIALS:
        changes = {"steps": max(2, options.trial_steps), "every": 0, "dtype": dtype, "threads": threads}
        result = trl_job(options, start, run, f"trial-{dtype}-{threads}", **changes)
        rates[dtype, threads] = settled_rate(Side(dtype, result["steps"], result["tokens"]))
        print(f"  TRL, {dtype}, {threads} thread(s): {rates[dtype, threads]:.0f} tokens/s once warm", flush=True)
    best = max(rates, key=lambda setting: rates[setting])
    return *best, {f"{dtype}/{threads}": rate for (dtype, threads), rate in rates.items()}


def read_setting(text: str) -> tuple[str, int]:
    """`float32/2` as type and threads; the user's errors end the process."""
    dtype, _, threads = text.partition("/")
    if dtype not in ("float32", "bfloat16") or not threads.isdigit() or int(threads) < 1:
        fail(f"--trl {text}: expected float32 or bfloat16, a slash and a number of threads, such as float32/2")
    return dtype, int(threads)


def measure_zeroq(options: argparse.Namespace, start: Path, seed: int) -> Side:
    """zeroq's side."""
    load = Load()
    overrides = [
        *training_overrides(options, start, seed),
        "eval.before_and_after=false",  # training tasks would be sampled in its shadow, before the clock starts
        f"eval.every_steps={options.eval_every}",
        *([] if shutil.which("g++") is None else ["actor.enforce_eager=false"]),
        *options.overrides,
    ]
    side = read_training("zeroq", run_zeroq(options.config, options.out, f"zeroq-{seed}", overrides))
    side.about["load"] = load.report()
    return side


def measure_trl(options: argparse.Namespace, start: Path, run: Path, seed: int, setting: Setting) -> Side:
    """TRL's side, on the problems of zeroq's run."""
    dtype, threads, rates = setting
    load = Load()
    result = trl_job(options, start, run, f"trl-{seed}", dtype=dtype, threads=threads)
    side = Side("TRL", result["steps"], result["tokens"], {int(k): v for k, v in result["checkpoints"].items()})
    side.about = {"setting": f"{dtype}, {threads} thread(s)", "trial_tokens_per_s": rates, "load": load.report()}
    side.about["rewards"] = result["rewards"]
    return side


def report(zeroq: Side, trl: Side, target: float) -> tuple[str, dict[str, Any]]:
    """The table, and its figures."""
    times = time_to_target(zeroq.curve, target), time_to_target(trl.curve, target)
    figures: dict[str, Any] = {
        "ratio_tokens_per_s": ratio(zeroq.tokens_per_s, trl.tokens_per_s),
        "ratio_tokens_per_s_warm": ratio(settled_rate(zeroq), settled_rate(trl)),
        "time_to_target_s": {"zeroq": times[0], "trl": times[1]},
        "ratio_time_to_target": ratio(times[1], times[0]),
        "pass_at_1_end": {"zeroq": zeroq.curve[-1][1], "trl": trl.curve[-1][1]},
    }
    rows = [
        ("steps", str(len(zeroq.steps)), str(len(trl.steps)), ""),
        ("training, s", shown(zeroq.seconds, 1), shown(trl.seconds, 1), ""),
        ("completion tokens trained", f"{sum(zeroq.tokens):,}", f"{sum(trl.tokens):,}", ""),
        (
            "trained tokens/s",
            shown(zeroq.tokens_per_s, 0),
            shown(trl.tokens_per_s, 0),
            shown(figures["ratio_tokens_per_s"], 2, "x"),
        ),
        (
            "trained tokens/s once warm",
            shown(settled_rate(zeroq), 0),
            shown(settled_rate(trl), 0),
            shown(figures["ratio_tokens_per_s_warm"], 2, "x"),
        ),
        (
            f"time to held-out pass@1 {target:g}, s",
            shown(times[0], 1),
            shown(times[1], 1),
            shown(figures["ratio_time_to_target"], 2, "x"),
        ),
        ("pass@1 at the start", shown(zeroq.curve[0][1], 3), shown(trl.curve[0][1], 3), ""),
        ("pass@1 at the end", shown(zeroq.curve[-1][1], 3), shown(trl.curve[-1][1], 3), ""),
    ]
    return table(("", "zeroq", "TRL", "ratio"), rows), figures


def summary(pairs: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Every pair in a line, and what they say together. A side that never reached the target has no time, and its pair
    no ratio; such pairs are counted."""
    times = [(p["time_to_target_s"]["zeroq"], p["time_to_target_s"]["trl"]) for p in pairs]
    both = [(ours, theirs) for ours, theirs in times if ours is not None and theirs is not None]
    ratios = [theirs / ours for ours, theirs in both]
    figures: dict[str, Any] = {
        "median_ratio_tokens_per_s": statistics.median(p["ratio_tokens_per_s"] for p in pairs),
        "median_ratio_time_to_target": statistics.median(ratios) if ratios else None,
        "ratio_summed_times": ratio(sum(t for _, t in both), sum(o for o, _ in both)),
        "pairs_without_target": {
            "zeroq": sum(ours is None for ours, _ in times),
            "trl": sum(theirs is None for _, theirs in times),
        },
    }
    rows = [
        (
            str(pair["seed"]),
            shown(pair["ratio_tokens_per_s"], 2, "x"),
            shown(ours, 1),
            shown(theirs, 1),
            shown(ratio(theirs, ours), 2, "x"),
            *(shown(value, 3) for value in pair["pass_at_1_end"].values()),
        )
        for pair, (ours, theirs) in zip(pairs, times, strict=True)
    ]
    head = ("seed", "tokens/s", "zeroq to target, s", "TRL, s", "ratio", "zeroq at the end", "TRL")
    lines = [
        table(head, rows),
        f"median of {len(pairs)}: trained tokens/s {shown(figures['median_ratio_tokens_per_s'], 2, 'x')}, "
        f"time to target {shown(figures['median_ratio_time_to_target'], 2, 'x')}; summed times "
        f"{shown(figures['ratio_summed_times'], 2, 'x')}",
        f"never reached the target: zeroq {figures['pairs_without_target']['zeroq']}, "
        f"TRL {figures['pairs_without_target']['trl']}",
    ]
    return "\n".join(lines), figures


def measure_pair(
    options: argparse.Namespace, start: Path, seed: int, setting: Setting | None
) -> tuple[Side, Side, Setting]:
    """Both sides once, judged; TRL's setting is found in the first pair."""
    print(f"zeroq, seed {seed}", flush=True)
    zeroq = measure_zeroq(options, start, seed)
    run = Path(zeroq.about["run"])
    print(f"TRL, seed {seed}", flush=True)
    setting = setting or best_setting(options, start, run)
    trl = measure_trl(options, start, run, seed, setting)
    print("judging checkpoints", flush=True)
    judge_sides([zeroq, trl], start, Judge(run / "data" / "eval.jsonl", seed=seed), options.target)
    return zeroq, trl, setting


def main() -> int:
    """Measure both sides, print the table; the exit code."""
    options = checked_options(None)
    setting: Setting | None = None
    pairs: list[dict[str, Any]] = []
    try:
        start = start_model(options, options.out)
        for seed in range(options.seed, options.seed + options.pairs):
            zeroq, trl, setting = measure_pair(options, start, seed, setting)
            text, figures = report(zeroq, trl, options.target)
            print(f"\n{text}\n")
            print(f"zeroq: load {zeroq.about['load']}\nTRL: {trl.about['setting']}; load {trl.about['load']}\n")
            pairs.append({"seed": seed, **figures, "zeroq": zeroq.to_json(), "trl": trl.to_json()})
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    text, figures = summary(pairs)
    print(text)
    in_loop = f"every {options.eval_every} steps, on its clock" if options.eval_every else "none"
    print(
        f"zeroq's in-loop evaluations: {in_loop}; TRL generates 128 completions at once; start-up is on neither clock"
    )
    write_json(options.json, {**figures, "target": options.target, "start": str(start), "pairs": pairs})
    return 0


def checked_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parse and check; the user's errors end the process."""
    options = parser().parse_args(arguments)
    if importlib.util.find_spec("trl") is None or importlib.util.find_spec("accelerate") is None:
        fail("trl or accelerate is not installed; pip install --no-deps -r requirements/bench.txt")
    if options.trl is not None:
        read_setting(options.trl)
    if options.pairs < 1:
        fail(f"--pairs {options.pairs}: at least 1")
    return checked(options)


if __name__ == "__main__":
    sys.exit(main())
