"""The small world's tokenizer loses nothing and knows its phrases; the models have the sizes that are counted on."""

import pytest

pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.model_files import PromptTokenizer
from recipes.small_world.model import CONTEXT, SHAPES, create_small_model, create_small_tokenizer, render_chat
from recipes.small_world.problems import draw
from recipes.small_world.traces import clean_response
from recipes.small_world.vocabulary import tokens

TEXTS = [
    "",
    "<think>First 4 + 9 = 13\nThen 13 - 6 = 7</think><answer>7</answer>",
    "首先，4 + 9 = 13\n所以答案是 13。 Äpfel, 日本語, \u0000, \U0001f600, tab\there",
    "\n```python\ndef f(x):\n    x = x + 3\n    return x\n```\n",
    "5-3 -7 --9  12345 trains steal theater",
]


@pytest.fixture(scope="module")
def tokenizer():
    return create_small_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_phrase_is_one_token(tokenizer):
    for text in tokens():
        assert len(tokenizer(text)["input_ids"]) == 1, text


@pytest.mark.parametrize("family", ["sums", "legs", "code", "notes", "requests"])
def test_responses_are_short_in_tokens(tokenizer, family):
    """No byte tokens: a word that is missing from the vocabulary would make traces several times as long."""
    for row in draw(family, 40, seed=3):
        ids = tokenizer(render_chat(row["prompt"]) + clean_response(row))["input_ids"]
        pieces = [tokenizer.decode([i]) for i in ids]
        assert len(ids) <= 72
        assert "\ufffd" not in "".join(pieces), pieces
        assert len([piece for piece in pieces if len(piece) == 1 and piece.isascii() and piece.isalpha()]) == 0, pieces


def test_the_chat_template_renders_what_the_corpora_hold(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    prompt = "Is {{ this }} a template?\n"
    assert PromptTokenizer(tmp_path).chat(prompt) == render_chat(prompt)
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "<think>Hm</think>Yes"}]
    whole = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(messages, tokenize=False)
    assert whole == render_chat("Hi.") + "<think>Hm</think>Yes<|end|>"


def test_two_sizes_of_one_tokenizer(tmp_path):
    base = create_small_model(tmp_path / "base", size="base", seed=1)
    again = create_small_model(tmp_path / "again", size="base", seed=1)
    student = create_small_model(tmp_path / "student", size="student", seed=1)
    models = {path.name: AutoModelForCausalLM.from_pretrained(path) for path in (base, again, student)}
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert 1_000_000 <= sizes["base"] <= 2_000_000
    assert 250_000 <= sizes["student"] <= 450_000
    assert models["base"].config.head_dim in (32, 64)
    assert models["base"].config.max_position_embeddings == CONTEXT >= 512
    assert (base / "tokenizer.json").read_bytes() == (student / "tokenizer.json").read_bytes()
    for one, two in zip(models["base"].parameters(), models["again"].parameters(), strict=True):
        assert torch.equal(one, two)
    assert set(SHAPES) == {"base", "student"}
