"""`zeroq eval` with a real broker, actor and evaluator: two models on two suites, one engine, and what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recipes.tiny_model import create_tiny_model
from tests.integration.river_rig import ROOT

pytestmark = pytest.mark.timeout(400)


def run_eval(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launcher", "eval", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=380,
    )


def test_eval_measures_models_on_suites_and_keeps_every_sample(tmp_path: Path) -> None:
    models = [str(create_tiny_model(tmp_path / name, seed=seed, num_layers=2)) for seed, name in enumerate("ab")]
    problems, more = tmp_path / "problems.jsonl", tmp_path / "more.jsonl"
    for path, count in ((problems, 3), (more, 2)):
        rows = [{"id": str(n), "prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    common = ["--max-tokens", "8", "--device", "cpu", "--out", str(out), "--select", "majority"]
    common += ["actor.dtype=float32", "actor.kv_cache_gib=0.25"]
    suites = ["--suite", f"{problems},{more}", "--k", "2"]
    result = run_eval(*models, *suites, *common)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "pass@1" in result.stdout
    samples = pq.read_table(out / "samples.parquet").to_pylist()
    assert len(samples) == 2 * 5 * 3  # models, problems, two samples and a greedy one
    assert {row["model"] for row in samples} == set(models)
    assert {row["suite"] for row in samples} == {"problems", "more"}
    assert all(0 < row["num_tokens"] <= 8 for row in samples)
    greedy = [[row["response"] for row in samples if (row["model"], row["kind"]) == (m, "greedy")] for m in models]
    assert greedy[0] != greedy[1], "each model's own weights were sampled from"
    written = json.loads((out / "results.json").read_text())
    assert [(row["model"], row["n"], row["k"]) for row in written["rows"]] == [
        (model, n, 2) for model in models for n in (3, 2)
    ]

    # Once more, for one model and suite of it: everything is there, so nothing is started.
    again = run_eval(models[0], "--data", str(problems), "--samples", "2", "--json", str(figures), *common)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    assert "requests" not in again.stdout
    found = json.loads(figures.read_text())
    assert 0 <= found["pass_at_1"] <= 1
    assert 0 < found["mean_length"] <= 8
    assert (found["num_problems"], found["samples"], found["temperature"]) == (3, 2, 0.6)

    other = run_eval(*models, *suites, "--temperature", "1", *common)
    assert other.returncode == 2
    assert "was begun with sampled" in other.stderr
