"""Packed attention inside transformers' models: equal to each sequence on its own, without a mask over all tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from common.errors import UserError
from learner import attention
from learner.attention import PackedLayout, packed_attention

SHAPE: dict[str, Any] = dict(  # noqa: C408
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
MODELS: list[tuple[Any, Any]] = [
    (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=8)),
    (Qwen2ForCausalLM, Qwen2Config(**SHAPE)),
    (LlamaForCausalLM, LlamaConfig(**SHAPE)),
]
LENGTHS = [5, 17, 1, 9, 16, 40]


def twins(kind: Any, config: Any) -> tuple[Any, Any]:
    """The same weights with plain and with packed attention."""
    torch.manual_seed(1)
    plain = kind._from_config(copy.deepcopy(config), attn_implementation="sdpa").eval()
    packed = kind._from_config(copy.deepcopy(config), attn_implementation=attention.NAME).eval()
    packed.load_state_dict(plain.state_dict())
    return plain, packed


@pytest.mark.parametrize(("kind", "config"), MODELS, ids=lambda value: getattr(value, "__name__", ""))
def test_packed_equals_one_by_one(kind: Any, config: Any) -> None:
    plain, packed = twins(kind, config)
    rows = [torch.randint(0, 97, (length,)) for length in LENGTHS]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    expected = torch.cat([plain(input_ids=row[None], use_cache=False).logits[0] for row in rows])
    layout = PackedLayout.of(LENGTHS)
    inputs = {"input_ids": torch.cat(rows)[None], "position_ids": positions[None], "use_cache": False}
    logits = packed(**inputs, packed=layout).logits[0]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(logits)
    (logits * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for (name, own), other in zip(packed.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_transformers_builds_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = twins(*MODELS[0])
    shapes: list[tuple[int, ...]] = []
    for name in ("ones", "tril", "full"):
        original = getattr(torch, name)

        def spy(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            result = _original(*args, **kwargs)
            shapes.append(tuple(result.shape))
            return result

        monkeypatch.setattr(torch, name, spy)
    masks: list[Any] = []
    original_attention = attention.ALL_ATTENTION_FUNCTIONS[attention.NAME]

    def watching(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        masks.append(mask)
        return original_attention(module, q, k, v, mask, **kwargs)

    monkeypatch.setitem(attention.ALL_ATTENTION_FUNCTIONS._global_mapping, attention.NAME, watching)
    total = sum(LENGTHS)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    packed(
        input_ids=torch.zeros(1, total, dtype=torch.int64),
        position_ids=positions[None],
        use_cache=False,
        packed=PackedLayout.of(LENGTHS),
    )
    assert masks == [None, None]
    assert all(total not in shape[-1:] or total not in shape[-2:-1] for shape in shapes)


def test_padding_stays_below_twice_the_tokens() -> None:
    layout = PackedLayout.of([1000, *[20] * 50, *[11] * 50])
    assert len(layout.buckets) == 2
    assert layout.padded.token_of.numel() <= 2 * (1000 + 20 * 50 + 11 * 50)


def test_sequences_do_not_see_each_other() -> None:
    query, key, value = (torch.randn(1, 2, 9, 4) for _ in range(3))
    module, layout = torch.nn.Module(), PackedLayout.of([4, 5])
    before, _ = packed_attention(module, query, key, value, None, packed=layout)
    key[:, :, 4:], value[:, :, 4:] = 7.0, 7.0
    after, _ = packed_attention(module, query, key, value, None, packed=layout)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("variant", [{"softcap": 30.0}, {"dropout": 0.1}, {"sliding_window": 3}, {"s_aux": 1}])
def test_variants_that_would_come_out_wrong_are_refused(variant: dict[str, Any]) -> None:
    query, key, value = (torch.randn(1, 2, 9, 4) for _ in range(3))
    with pytest.raises(UserError, match="not supported"):
        packed_attention(torch.nn.Module(), query, key, value, None, packed=PackedLayout.of([4, 5]), **variant)


def test_the_name_is_known_to_transformers() -> None:
    model = AutoModelForCausalLM.from_config(MODELS[0][1], attn_implementation=attention.NAME)
    assert model.config._attn_implementation == attention.NAME
