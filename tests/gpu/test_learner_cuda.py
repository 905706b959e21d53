"""The learner's packed attention on a card: FlashAttention over packed tokens equals padded attention in float32."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from learner.attention import PackedLayout, _padded, _varlen  # noqa: E402

pytestmark = pytest.mark.gpu
LENGTHS = [5, 170, 1, 90, 16, 400]


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
