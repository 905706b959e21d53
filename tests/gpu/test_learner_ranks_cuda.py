"""Two cards: FSDP over NCCL computes what one card computes, and a checkpoint of two goes on upon one."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available() or torch.cuda.device_count() < 2:
    pytest.skip("needs two CUDA devices", allow_module_level=True)

from tests.integration.test_learner_ranks import work  # noqa: E402
from tests.learner_rig import tiny_model  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


def test_two_cards_equal_one_and_a_checkpoint_resumes_on_either(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    one = work(tmp_path / "one" / "out.pt", model, ranks=1, kl=0.1, device="cuda")
    two = work(tmp_path / "two" / "out.pt", model, ranks=2, kl=0.1, device="cuda")
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
    on_one = work(
        tmp_path / "o.pt", model, ranks=1, kl=0.1, device="cuda", checkpoints=tmp_path / "two" / "checkpoints"
    )
    torch.testing.assert_close(on_one["losses"][0], two["losses"][3], rtol=1e-4, atol=1e-5)
