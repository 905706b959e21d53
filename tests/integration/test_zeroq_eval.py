"""`zeroq eval` with a real broker, actor and evaluator: figures of a random model, in the form that others read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.tiny_model import create_tiny_model
from tests.integration.river_rig import ROOT

pytestmark = pytest.mark.timeout(400)


def test_eval_reports_pass_at_1_and_leaves_a_json(tmp_path: Path) -> None:
    model = create_tiny_model(tmp_path / "model")
    problems = tmp_path / "problems.jsonl"
    problems.write_text(
        "".join(
            json.dumps({"id": str(n), "prompt": f"What is {n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(4)
        )
    )
    out = tmp_path / "figures.json"
    options = ["--samples", "2", "--max-tokens", "8", "--device", "cpu", "--json", str(out), "actor.dtype=float32"]
    result = subprocess.run(
        [sys.executable, "-m", "launcher", "eval", str(model), "--data", str(problems), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    figures = json.loads(out.read_text())
    assert 0 <= figures["pass_at_1"] <= 1
    assert 0 < figures["mean_length"] <= 8
    assert figures["num_problems"] == 4
    assert "pass@1" in result.stdout
