"""The learner's packed attention on a card: FlashAttention over packed tokens equals padded attention in float32."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from learner.attention import PackedLayout, _padded, _varlen  # noqa: E402

pytestmark = pytest.mark.gpu
LENGTHS = [5, 170, 1, 90, 16, 400]


def test_rows_that_share_prompts_equal_rows_that_do_not() -> None:
    """Two families (prompts of 100 and 7 tokens) against the same sequences with a prompt each."""
    torch.manual_seed(0)
    own, prompts, family = [30, 1, 200, 64, 5], [100, 7], [0, 0, 0, 1, 1]
    rows, shared, start = [], 0, [0, 0]
    for index, length in enumerate(own):
        if index == 0 or family[index] != family[index - 1]:
            start[family[index]], shared = shared, shared + prompts[family[index]]
        first = start[family[index]]
        rows += [*range(first, first + prompts[family[index]]), *range(shared, shared + length)]
        shared += length
    lengths = [prompts[f] + length for f, length in zip(family, own, strict=True)]
    of_R = torch.tensor(rows)
    layout, apart = PackedLayout.of(lengths, "cuda", of_R), PackedLayout.of(lengths, "cuda")
    packed = [torch.randn(shared, heads, 64, device="cuda").bfloat16().requires_grad_() for heads in (8, 2, 2)]
    spread = [x.detach()[of_R.cuda()].float().requires_grad_() for x in packed]
    got, expected = _varlen(*packed, layout, None), _padded(*spread, apart, None)
    torch.testing.assert_close(got[of_R.cuda()].float(), expected, rtol=3e-2, atol=3e-2)
    upstream = torch.randn_like(got)
    assert layout.end_to_end is not None
    spread_upstream = torch.zeros_like(expected)
    spread_upstream[layout.end_to_end.place_of_S] = upstream.float()
    got.backward(upstream)
    expected.backward(spread_upstream)
    for name, a, b in zip("qkv", packed, spread, strict=True):
        total = torch.zeros_like(a, dtype=torch.float32).index_add_(0, of_R.cuda(), b.grad)
        error = (a.grad.float() - total).norm() / total.norm()
        assert error < 2e-2, f"gradient of {name}: relative error {error:.3g}"


def test_varlen_equals_padded_forward_and_backward() -> None:
    torch.manual_seed(0)
    layout = PackedLayout.of(LENGTHS, "cuda")
    shapes = [(sum(LENGTHS), heads, 64) for heads in (8, 2, 2)]
    exact = [torch.randn(shape, device="cuda", requires_grad=True) for shape in shapes]
    half = [x.detach().bfloat16().requires_grad_() for x in exact]
    expected = _padded(*exact, layout, None)
    got = _varlen(*half, layout, None)
    torch.testing.assert_close(got.float(), expected, rtol=3e-2, atol=3e-2)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    got.backward(upstream.bfloat16())
    for name, a, b in zip("qkv", half, exact, strict=True):
        error = (a.grad.float() - b.grad).norm() / b.grad.norm()
        assert error < 2e-2, f"gradient of {name}: relative error {error:.3g}"
