"""Owns the tiny model of the CPU demo: a tokenizer and a random-weight Qwen3, saved as a Hugging Face directory.

Why it exists: a demo that runs in minutes on two cores cannot download a pretrained model nor carry its vocabulary.
The vocabulary is fixed by this file, not trained, so every machine builds the same one:

    text ── special tokens cut out ── split: "-7", "42", " + ", " final", "\\n", ... ── bytes ── BPE within a piece

Each byte is a token, so any Unicode text survives ``decode(encode(x)) == x``. On top of the bytes come the integers
-99..99 (a sum is then one lookup, not a carry), spaced operators, the tags of the response and common English words.
The weights are those of ``Qwen3ForCausalLM``, so that vLLM, transformers and our learner load them like any model.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

EOS_TOKEN = "<|end|>"
PAD_TOKEN = "<|pad|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# The order of the alternatives matters. A minus sign belongs to the number only where no digit or closing bracket
# stands before it: "5-3" is 5, -, 3 but "= -3" is " = ", -3.
_PIECES = r" [-+*/=] | [-+*/=]|(?<![0-9)])-[0-9]{1,2}(?![0-9])|[0-9]{1,2}| ?[A-Za-z]+|\n"
_OPERATORS = "+-*/="
_WORDS = """
State the final answer to following arithmetic problem a an and are as at be by did do does each for from get had has
have he her his how if in is it its left long many more most much not of off on one or out over per she so than that
their them then there they this times total two three four five up was were what when which will with would you your
all can cost day days dollars every first give gives half hour hours made make minutes money number old part people pay
price sold spend spent take takes twice week weeks year years Calculate Each He How If In John She The They What
"""


def _byte_symbols() -> list[str]:
    """The 256 printable characters by which a byte-level tokenizer writes bytes 0..255, in byte order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = (chr(0x100 + i) for i in range(256))
    return [chr(b) if b in printable else next(spare) for b in range(256)]


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids and BPE merges, the most urgent merge first.

    A merge joins two pieces that exist already. Numbers: digit and digit, then minus and number. Operators and words
    grow by one character from their left end, so that each prefix of a word becomes a token too. Words inside a
    sentence start with their space ("Ġ"); bare words start with a capital: no merge of one can spoil the other.
    """
    symbols = _byte_symbols()
    space = symbols[ord(" ")]
    merges = [(str(tens), str(ones)) for tens in range(10) for ones in range(10)]
    merges += [("-", str(number)) for number in range(1, 100)]
    words = [word if word[0].isupper() else space + word for word in _WORDS.split()]
    for text in [*(space + operator + space for operator in _OPERATORS), *words]:
        merges += [(text[:end], text[end]) for end in range(1, len(text))]
    merges = list(dict.fromkeys(merges))
    tokens = dict.fromkeys([*symbols, *(left + right for left, right in merges)])
    return {token: i for i, token in enumerate(tokens)}, merges


def create_tokenizer(phrases: Iterable[str] = (), *, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Build the demo's tokenizer: at most 1,024 tokens, lossless on any Unicode text, no normalisation.

    Each of `phrases` becomes one token more, wherever it stands (of two that begin at one place, the longer).
    """
    vocabulary, merges = _vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # The tags are ordinary added tokens: a decode that skips special tokens must keep them, since rewards read them.
    tokenizer.add_tokens([*TAGS, *dict.fromkeys(phrases)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    return fast


SHAPES: dict[str, dict[str, int | bool]] = {
    "tiny": {},
    # Qwen2.5-0.5B's widths and vocabulary, random weights: for measuring, not for learning.
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_layers": 24,
        "num_heads": 14,
        "num_kv_heads": 2,
        "head_dim": 64,
        "max_positions": 32_768,
        "tie_embeddings": True,
        "vocab_size": 151_936,
    },
}


def create_tiny_model(
    path: Path,
    *,
    seed: int = 0,
    hidden_size: int = 128,
    intermediate_size: int = 384,
    num_layers: int = 4,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 32,
    max_positions: int = 4096,
    tie_embeddings: bool = False,
    vocab_size: int | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """Write tokenizer, configuration and random float32 weights into the directory `path`, and return `path`.

    The same seed gives the same weights; the caller's random state is left as it was. `head_dim` must be one that
    vLLM's CPU attention supports (32, 64, ...). `vocab_size` adds rows to the embeddings beyond the tokenizer's own
    tokens, to measure with a real model's vocabulary; default: the tokenizer's, rounded up to 64. `tokenizer`: default
    the demo's.
    """
    tokenizer = tokenizer or create_tokenizer()
    config = Qwen3Config(
        vocab_size=vocab_size or -(-len(tokenizer) // 64) * 64,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        tie_word_embeddings=tie_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
