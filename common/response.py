r"""Reads a completion: what is reasoning, what is visible, what is left for the user.

- Text inside `<think>...</think>` is reasoning; nothing in it can be the answer. Blocks nest; one that is never closed
  runs to the end; a `</think>` that was never opened makes all before it reasoning (templates that open it themselves).
- Visible is only what follows the last `</think>`; nothing is if a block is left open.
- The last complete `<answer>...</answer>` of the visible text is its final part; an unfinished one is none.
- A prompt that ends with `<think>` belongs to the response: its completion is read as if it began with that tag.

Everything here is linear in the length of the text, so no limit is needed. Graders, filters and reward models read
responses by this one module, so that what is trained on is what is graded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
_THINK_TAGS = re.compile(r"</?think>")
_SHAPE = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Response:
    """A completion taken apart. `text` includes a `<think>` that the prompt ended with."""

    text: str
    reasoning: str
    visible: str

    @property
    def well_formed(self) -> bool:
        """One `<think>` block, one `<answer>` block, neither blank, and only white space around them."""
        if any(self.text.count(tag) != 1 for tag in (THINK, END_THINK, ANSWER, END_ANSWER)):
            return False
        shape = _SHAPE.fullmatch(self.text)
        return shape is not None and bool(shape["think"].strip()) and bool(shape["answer"].strip())


def read(prompt: str, completion: str) -> Response:
    """Take `completion`, which followed `prompt`, apart."""
    text = THINK + completion if prompt.rstrip().endswith(THINK) else completion
    visible: list[str] = []
    reasoning: list[str] = []
    depth = position = 0
    for tag in _THINK_TAGS.finditer(text):
        (reasoning if depth else visible).append(text[position : tag.start()])
        position = tag.end()
        if tag.group() == THINK:
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                visible = []  # only what follows the last block counts
        else:  # never opened: what came before was reasoning
            reasoning.extend(visible)
            visible = []
    (reasoning if depth else visible).append(text[position:])
    if depth:
        visible = []
    return Response(text, "\n".join(reasoning), "\n".join(visible))


def answer_block(response: Response) -> str | None:
    """Content of the last complete answer block, stripped; None without one."""
    end = response.visible.rfind(END_ANSWER)
    start = response.visible.rfind(ANSWER, 0, end) if end >= 0 else -1
    return response.visible[start + len(ANSWER) : end].strip() if start >= 0 else None


def summary(response: Response) -> str:
    """What is left for the user: the answer block, else all visible text, stripped; empty when nothing is visible."""
    block = answer_block(response)
    return response.visible.strip() if block is None else block
