"""Owns how a problem is put to the model: the templates `data.template` names.

r1_zero   the conversation of DeepSeek-R1-Zero (arXiv 2501.12948, table 1): who speaks, and in which tags the
          reasoning and the answer go; nothing about how to reason. For base models.
bare      the problem and a newline. For models that were trained on nothing else.
chat      the tokenizer's own chat template with the problem as the user's message, or with the messages that the data
          have, system turns included. For instruction-tuned models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from recipes.conversations import Messages, single_user_turn

Template = Literal["r1_zero", "bare", "chat"]

R1_ZERO = (
    "A conversation between User and Assistant. The User asks a question and the Assistant solves it. "
    "The Assistant first thinks the reasoning through in its mind and then gives the User the answer. "
    "The reasoning stands between <think> and </think>, the answer between <answer> and </answer>, that is: "
    "<think> reasoning here </think> <answer> answer here </answer>. User: {prompt} Assistant:"
)


def render_prompt(
    template: Template, prompt: str | Messages, chat: Callable[[str | Messages], str] | None = None
) -> str:
    """The text that the model continues. `prompt`: the problem, or chat messages (as `read_messages` gives them).

    `chat` renders it with the tokenizer's chat template. ValueError when `template` is chat without it, or when the
    template takes one user's turn and `prompt` has more.
    """
    if template != "chat" and not isinstance(prompt, str):
        prompt = single_user_turn(prompt, template)
    if template == "r1_zero":
        assert isinstance(prompt, str)
        return R1_ZERO.replace("{prompt}", prompt)  # not str.format: problems are full of braces
    if template == "bare":
        assert isinstance(prompt, str)
        return prompt + "\n"
    if chat is None:
        raise ValueError("template chat needs the tokenizer's chat template")
    return chat(prompt)
