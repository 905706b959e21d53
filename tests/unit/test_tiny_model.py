"""The demo's tokenizer loses nothing, keeps numbers whole, and its model is what the demo's budget allows."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.tiny_model import EOS_TOKEN, PAD_TOKEN, TAGS, create_tiny_model, create_tokenizer

TOKENIZER = create_tokenizer()

# Pieces of our own formats, so that random text meets the tokens that are longer than a character.
FRAGMENTS = st.sampled_from(
    [*TAGS, EOS_TOKEN, "-", "--", "-7", "42", "007", " = ", " + ", " final", "\n", "\r\n", " ", "é", "答"]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(FRAGMENTS, st.text(max_size=3))).map("".join))


def pieces(text: str) -> list[str]:
    """The text of each token of `text`."""
    return [TOKENIZER.decode([token]) for token in TOKENIZER(text).input_ids]


@given(TEXTS)
def test_decode_inverts_encode(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


@pytest.mark.parametrize(
    "text", ["François paid €5½ for 三 apples 🍎\u200d!", "\x00\t\r\n ", "ﬁ e\u0301 \u00e9", "<think"]
)
def test_text_is_not_normalised(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("number", range(-99, 100))
def test_integers_below_a_hundred_are_single_tokens(number: int) -> None:
    assert pieces(f"<answer>{number}</answer>") == ["<answer>", str(number), "</answer>"]
    assert pieces(f"4 + 9 = {number}\n")[3:] == [" = ", str(number), "\n"]


def test_a_minus_between_operands_is_an_operator() -> None:
    assert pieces("5-3") == ["5", "-", "3"]
    assert pieces("(4)-3") == ["(", "4", ")", "-", "3"]
    assert pieces("-9 - -8") == ["-9", " - ", "-8"]


def test_words_of_the_question_are_single_tokens() -> None:
    question = "State the final answer to the following arithmetic problem: 4 + 9 ="
    words = ["State", " the", " final", " answer", " to", " the", " following", " arithmetic", " problem"]
    assert pieces(question) == [*words, ":", " ", "4", " + ", "9", " ="]


def test_tags_survive_a_decode_that_skips_special_tokens() -> None:
    text = "<think>4 + 9 = 13</think><answer>13</answer>"
    ids = TOKENIZER(text + EOS_TOKEN + PAD_TOKEN).input_ids
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    assert [len(TOKENIZER(tag).input_ids) for tag in TAGS] == [1, 1, 1, 1]


def test_vocabulary_is_small_and_fixed() -> None:
    assert len(TOKENIZER) <= 1024
    assert create_tokenizer().get_vocab() == TOKENIZER.get_vocab()
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(len(TOKENIZER)))


def test_saved_directory_loads_with_transformers(tmp_path: Path) -> None:
    path = create_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = "Zoë bought -12 apples <think>\n"
    assert tokenizer(text).input_ids == TOKENIZER(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert 0.8e6 <= sum(p.numel() for p in model.parameters()) <= 1.8e6
    assert model.config.vocab_size >= len(tokenizer)
    assert model.config.max_position_embeddings >= 2048
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


def test_seed_decides_the_weights_and_spares_the_callers_random_state(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    paths = [create_tiny_model(tmp_path / str(i), seed=seed, num_layers=1) for i, seed in enumerate((0, 0, 1))]
    assert torch.equal(torch.rand(3), expected)
    weights = [(path / "model.safetensors").read_bytes() for path in paths]
    assert weights[0] == weights[1] != weights[2]
