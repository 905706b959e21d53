"""Owns conversations to imitate as a corpus: TRL's SFT rows in, rows of recipes/stages/corpus.py out.

    {"messages": [..., assistant]}  or  {"prompt": [...], "completion": [assistant]}
        ── all but the last turn through the tokenizer's chat template = `prompt`, the last turn as it is = `response`

Reasoning of the turn that is learnt is never lost in a template; earlier reasoning that would be is an error that names
the line (recipes/conversations.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import UserError
from recipes.conversations import Render, plain_text, read_messages, split_conversation
from recipes.datasets import read_rows
from recipes.stages.corpus import CorpusRow


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Whether a row is a conversation to imitate and not a prompt with its response."""
    return isinstance(row.get("messages"), list) or isinstance(row.get("completion"), list)


def conversation_rows(
    source: str, render: Render, *, split: str = "train", kind: str = "general"
) -> Iterator[CorpusRow]:
    """Rows of a JSON-lines file or Hugging Face dataset of conversations; `render` is PromptTokenizer.render.

    UserError naming file and line for a malformed conversation, one that has reasoning which the template drops, or a
    row that is none.
    """
    origin = source.rpartition("/")[2]
    for number, (where, row) in enumerate(read_rows(source, split), start=1):
        if not is_conversation(row):
            raise UserError(
                f"{where}: no conversation: messages, or prompt and completion as lists of messages, are needed; "
                f"the row has {', '.join(map(str, row)) or 'nothing'}"
            )
        messages = row["messages"] if isinstance(row.get("messages"), list) else _joined(row, where)
        prompt, response = split_conversation(messages, render, where)
        yield CorpusRow(
            id=str(row.get("id") or f"{origin}:{number}"),
            source=str(row.get("source") or origin.split(".")[0]),
            language=row["language"] if isinstance(row.get("language"), str) else None,
            problem=plain_text(read_messages(messages[:-1])),
            prompt=prompt,
            response=response,
            kind=str(row.get("kind") or kind),
            difficulty=None,
            num_tokens=None,
            origin=origin,
        )


def _joined(row: Mapping[str, Any], where: str) -> list[Any]:
    prompt, completion = row.get("prompt"), row["completion"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list):
        raise UserError(f"{where}: field 'prompt' must be text or a list of messages beside a completion of messages")
    return [*prompt, *completion]
