"""The chunked head against plain log-softmax, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from learner.head import token_logprobs


@pytest.mark.parametrize("chunk", [3, 7, 2048])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_log_softmax_of_all_logits(chunk: int, temperature: float) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(17, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True)
    targets, upstream = torch.randint(0, 31, (17,)), torch.randn(17)
    expected = F.log_softmax(hidden @ weight.t() / temperature, -1)
    picked = expected.gather(1, targets[:, None])[:, 0]
    gradients = torch.autograd.grad((picked * upstream).sum(), (hidden, weight))
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature, chunk=chunk)
    torch.testing.assert_close(logprobs, picked)
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1))
    assert not entropy.requires_grad
    own = torch.autograd.grad((logprobs * upstream).sum(), (hidden, weight))
    torch.testing.assert_close(own, gradients)


def test_bfloat16_keeps_a_float32_softmax() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 16).bfloat16(), torch.randn(999, 16).bfloat16()
    logprobs, _ = token_logprobs(hidden, weight, torch.arange(5))
    expected = F.log_softmax((hidden @ weight.t()).float(), -1)[:, :5].diagonal()
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected)


def test_never_holds_more_than_a_chunk_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    whole = torch.mm

    def spy(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = whole(a, b)
        if result.shape[1] == 29:
            rows.append(result.shape[0])
        return result

    monkeypatch.setattr(torch, "mm", spy)
    hidden, weight = torch.randn(100, 4, requires_grad=True), torch.randn(29, 4, requires_grad=True)
    token_logprobs(hidden, weight, torch.zeros(100, dtype=torch.int64), chunk=16)[0].sum().backward()
    assert rows
    assert max(rows) == 16


def test_no_tokens_give_zero_gradients() -> None:
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64))[0].sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() == 0
