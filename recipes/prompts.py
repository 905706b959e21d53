"""Owns how a problem is put to the model: the templates `data.template` names.

r1_zero   the conversation of DeepSeek-R1-Zero (arXiv 2501.12948, table 1): who speaks, and in which tags the
          reasoning and the answer go; nothing about how to reason. For base models.
bare      the problem and a newline. For models that were trained on nothing else.
chat      the tokenizer's own chat template with the problem as the user's message. For instruction-tuned models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Template = Literal["r1_zero", "bare", "chat"]

R1_ZERO = (
    "A conversation between User and Assistant. The User asks a question and the Assistant solves it. "
    "The Assistant first thinks the reasoning through in its mind and then gives the User the answer. "
    "The reasoning stands between <think> and </think>, the answer between <answer> and </answer>, that is: "
    "<think> reasoning here </think> <answer> answer here </answer>. User: {prompt} Assistant:"
)


def render_prompt(template: Template, prompt: str, chat: Callable[[str], str] | None = None) -> str:
    """The text that the model continues.

    `chat` renders one user message with the tokenizer's chat template; ValueError when `template` is chat without it.
    """
    if template == "r1_zero":
        return R1_ZERO.replace("{prompt}", prompt)  # not str.format: problems are full of braces
    if template == "bare":
        return prompt + "\n"
    if chat is None:
        raise ValueError("template chat needs the tokenizer's chat template")
    return chat(prompt)
