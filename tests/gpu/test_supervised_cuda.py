"""The supervised job on a card: bfloat16 learns as float32 does, and recomputing blocks saves memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from learner import supervised  # noqa: E402
from recipes.tiny_model import create_tiny_model  # noqa: E402
from tests.learner_rig import read_lines  # noqa: E402
from tests.supervised_rig import PAIRS, job_config, job_process, write_corpus  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_tiny_model(tmp_path_factory.mktemp("model"), head_dim=64)


def train(root: Path, model: Path, corpus: Path, **sections: Any) -> tuple[list[dict[str, Any]], int]:
    """Rows of metrics, and the most memory that was in use, bytes."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    learner = {"device": "cuda", "dtype": "bfloat16", "tokens_per_microbatch": 16_384, **sections.pop("learner", {})}
    process = job_process(root, job_config(model, corpus, learner=learner, **sections))
    supervised.run(process)
    return read_lines(process.paths.metrics), torch.cuda.max_memory_allocated()


def test_bfloat16_learns_as_float32_does(tmp_path: Path, model: Path) -> None:
    corpus = write_corpus(tmp_path / "train.jsonl")
    sft = {"max_steps": 20, "lr": 3e-3}
    half, _ = train(tmp_path / "bfloat16", model, corpus, sft=sft)
    full, _ = train(tmp_path / "float32", model, corpus, sft=sft, learner={"dtype": "float32"})
    assert half[-1]["loss"] < half[0]["loss"] - 2
    assert [row["loss"] for row in half] == pytest.approx([row["loss"] for row in full], rel=0.05)


def test_recomputing_blocks_saves_memory_and_changes_no_loss(tmp_path: Path, model: Path) -> None:
    corpus = write_corpus(tmp_path / "train.jsonl", [(prompt, "x" * 4000) for prompt, _ in PAIRS])
    sft = {"max_steps": 2}
    kept, most = train(tmp_path / "kept", model, corpus, sft=sft)
    again, least = train(tmp_path / "again", model, corpus, sft=sft, learner={"recompute": True})
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in kept], rel=0.02)
    assert least < 0.6 * most
