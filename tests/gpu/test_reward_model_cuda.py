"""Reward models on a card: trained in bfloat16 over packed sequences, served in batches, equal to the CPU's scores."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from common.reward_model import read_reward_model  # noqa: E402
from evaluator.scoring.client import ScoringClient, ScoringSettings  # noqa: E402
from evaluator.scoring.model import RewardModel  # noqa: E402
from tests.reward_rig import make_base, make_job, preferences, run_job, write_rows  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trained_and_served_on_a_card(tmp_path: Path, dtype: str) -> None:
    base = make_base(tmp_path / "base")
    data = write_rows(tmp_path / "pairs.jsonl", preferences("helpful", 400))
    learner = {"device": "cuda", "dtype": dtype, "recompute": True}
    summary = run_job(tmp_path / "run", make_job(base, "helpful", data, max_steps=20, learner=learner))
    assert summary["accuracy"] > 0.9
    checkpoint = summary["checkpoint"]
    facts = read_reward_model(checkpoint)
    rows = preferences("helpful", 40, seed=1)
    texts = [row[name] for row in rows for name in ("chosen", "rejected")]
    client = ScoringClient({checkpoint: facts}, ScoringSettings(device="cuda", tokens_per_batch=1024))
    try:
        client.await_start()
        served = [future.result(60) for future in client.submit(checkpoint, rows[0]["prompt"], texts)]
    finally:
        client.close()
    on_cpu = RewardModel(checkpoint, facts, "cpu", "float32")
    expected = [on_cpu.score([found.ids])[0] for found in on_cpu.encode(rows[0]["prompt"], texts) if found is not None]
    assert served == pytest.approx(expected, abs=1e-3)
    assert sum(served[i] > served[i + 1] for i in range(0, 80, 2)) > 35
