"""Owns what training and serving of reward models must agree on: the artefact, what a model reads, and its tokens.

    DIR/config.json, model.safetensors, tokenizer...    a Hugging Face sequence classifier with one label
    DIR/reward_model.json                               RewardModelFacts

    prompt + completion --judged_text--> (question, judged) --encode--> [bos] question judged [eos] --model--> raw score
    served score = (raw score - offset) / scale: mean 0 and deviation 1 over held-out responses

Helpfulness reads the summary that is left for the user, harmlessness the whole response, reasoning included (R1 paper,
section 2.3.4). Both rooms import these functions and have none of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from common.errors import UserError
from common.lifecycle import write_atomic
from common.response import THINK, read, summary

FACTS_FILE = "reward_model.json"
Kind = Literal["helpful", "safety"]
Reads = Literal["summary", "response"]


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """`["input_ids"]` has the ids of each text."""


@dataclass(frozen=True)
class RewardModelFacts:
    """What reward_model.json says.

    `offset`, `scale`: mean and standard deviation of raw scores over held-out responses; `floor`: the lowest served
    score among them, which a response with nothing to read gets (None: the model is asked).
    """

    kind: Kind
    reads: Reads
    max_tokens: int
    offset: float = 0.0
    scale: float = 1.0
    floor: float | None = None

    def served(self, raw: float) -> float:
        """The score that a reward component gets."""
        return (raw - self.offset) / self.scale


@dataclass(frozen=True)
class Encoded:
    """Token ids of one question and the text to judge; `num_cut`: tokens left out of them to keep to the limit."""

    ids: list[int]
    num_cut: int


def judged_text(reads: Reads, prompt: str, completion: str) -> tuple[str, str]:
    """(question, text to judge). The text is empty where there is nothing to read: no summary, a blank response.

    A `<think>` that the prompt ends with belongs to the response; the summary comes without it.
    """
    response = read(prompt, completion)
    question = prompt.rstrip()
    question = question.removesuffix(THINK) if question.endswith(THINK) else prompt
    if reads == "summary":
        text = summary(response)
        return question.rstrip() + "\n", text
    return question, response.text if completion.strip() else ""


def encode(tokenizer: Tokenizer, texts: Sequence[tuple[str, str]], max_tokens: int) -> list[Encoded]:
    """Ids of (question, judged) pairs: [bos] question judged [eos], at most `max_tokens` of them.

    Of a text that is too long the end is kept, since it holds what the user is told and what was written last; of the
    question the end too, but no more than half of the room. Special tokens come from here alone: a chat template has
    written its own. A tokenizer whose end token is also its padding (Qwen2.5's base models) gets none: transformers
    scores at the last token that is not padding.
    """
    if not texts:
        return []
    questions = tokenizer([question for question, _ in texts], add_special_tokens=False)["input_ids"]
    judged = tokenizer([text for _, text in texts], add_special_tokens=False)["input_ids"]
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, padding(tokenizer)
    end = [] if eos is None or eos == pad else [eos]
    return [
        _fit([bos] if bos is not None and q[:1] != [bos] else [], list(q), list(t), end, max_tokens)
        for q, t in zip(questions, judged, strict=True)
    ]


def padding(tokenizer: Tokenizer) -> int:
    """Id that batches are padded with."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return 0 if pad is None else pad


def last_place(ids: Sequence[int], pad: int) -> int:
    """Where a sequence is scored: its last token that is not padding, as transformers' classifiers have it."""
    return next((place for place in range(len(ids) - 1, -1, -1) if ids[place] != pad), 0)


def _fit(begin: list[int], question: list[int], judged: list[int], end: list[int], max_tokens: int) -> Encoded:
    room = max(max_tokens - len(begin) - len(end), 1)
    num_cut = max(0, len(question) + len(judged) - room)
    if num_cut:
        for_question = min(len(question), max(room // 2, room - len(judged)))
        question = question[len(question) - for_question :]
        judged = judged[len(judged) - min(len(judged), room - for_question) :]
    return Encoded([*begin, *question, *judged, *end], num_cut)


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of sequences in batches of near lengths, longest first; `budget`: tokens of one, padding included."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def read_reward_model(path: str | Path) -> RewardModelFacts:
    """The facts of the reward model in directory `path`; UserError when it is none, saying what is missing."""
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; `zeroq reward-model` writes reward models")
    config = _read_json(directory / "config.json")
    architectures = config.get("architectures") or []
    labels = config.get("id2label")
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures) or len(labels or "ab") != 1:
        raise UserError(
            f"{directory}: a reward model is a sequence classifier with one label; this is "
            f"{', '.join(map(str, architectures)) or 'no known model'} with {len(labels or 'ab')} labels"
        )
    if not any(directory.glob("*.safetensors")):
        raise UserError(f"{directory}: no *.safetensors there; the model is incomplete")
    if not (directory / "tokenizer_config.json").is_file():
        raise UserError(f"{directory}: no tokenizer there; the model is incomplete")
    return _facts(_read_json(directory / FACTS_FILE), directory / FACTS_FILE)


def write_reward_model(directory: Path, facts: RewardModelFacts) -> None:
    """Write reward_model.json."""
    write_atomic(directory / FACTS_FILE, json.dumps(asdict(facts), indent=1) + "\n")


def _facts(values: dict[str, Any], where: Path) -> RewardModelFacts:
    unknown = values.keys() - RewardModelFacts.__dataclass_fields__.keys()
    if unknown:
        raise UserError(f"{where}: unknown key {sorted(unknown)[0]}")
    for key, known in (("kind", get_args(Kind)), ("reads", get_args(Reads))):
        if values.get(key) not in known:
            raise UserError(f"{where}: {key} = {values.get(key)!r}: must be one of {', '.join(known)}")
    max_tokens = values.get("max_tokens")
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 4:
        raise UserError(f"{where}: max_tokens = {max_tokens!r}: must be a whole number of at least 4")
    facts = RewardModelFacts(
        kind=values["kind"],
        reads=values["reads"],
        max_tokens=max_tokens,
        offset=_number(values, "offset", 0.0, where),
        scale=_number(values, "scale", 1.0, where),
        floor=None if values.get("floor") is None else _number(values, "floor", 0.0, where),
    )
    if facts.scale <= 0:
        raise UserError(f"{where}: scale = {facts.scale!r}: must be positive")
    return facts


def _number(values: dict[str, Any], key: str, default: float, where: Path) -> float:
    value = values.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{where}: {key} = {value!r}: must be a finite number")
    return float(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a reward model has one (`zeroq reward-model` writes it)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
