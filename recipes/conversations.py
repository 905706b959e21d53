"""Owns chat messages: prompts that are conversations, and what a tokenizer's chat template does to reasoning.

Some templates lose reasoning without a word. Those of the R1 distillations cut everything up to `</think>` from earlier
turns of the assistant, Qwen3's keep only the last one's; and some open `<think>` themselves at the end of the prompt.
`probe` finds out by rendering conversations made for it, so it does not depend on how a template is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from common.response import END_THINK, THINK

Message = dict[str, Any]
Messages = list[Message]
Render = Callable[[Messages, bool], str]
"""Messages in a chat template; whether the assistant is to speak next. Raises UserError where the template refuses."""

ROLES = ("system", "developer", "user", "assistant", "tool")
_PROBE = ("probe question one", "probe reasoning", "probe answer", "probe question two", "probe system")


@dataclass(frozen=True)
class ChatFacts:
    """What a template does. `keeps_earlier`, `keeps_last`: the reasoning of earlier answers, and of the one that ends a
    conversation; `opens_think`: prompts end with `<think>`; `keeps_system`: system turns appear in what is rendered."""

    keeps_earlier: bool
    keeps_last: bool
    opens_think: bool
    keeps_system: bool


def read_messages(value: Sequence[Any]) -> Messages:
    """A prompt's messages, checked: known roles, text contents, the last turn not the assistant's.

    Content in parts (`[{"type": "text", "text": ...}]`) is joined; keys whose value is null are left out. Raises
    ValueError that names the message.
    """
    messages = [_message(item, f"message {index + 1}") for index, item in enumerate(value)]
    if not messages:
        raise ValueError("it has no messages; a prompt needs one of the user's")
    if not any(message["role"] == "user" for message in messages):
        raise ValueError("it has no user's turn; a prompt needs one")
    if messages[-1]["role"] == "assistant":
        raise ValueError("it ends with the assistant's turn, which is what is to be sampled; remove that turn")
    return messages


def _message(item: Any, what: str) -> Message:
    if not isinstance(item, Mapping):
        raise ValueError(f"{what} must be an object with role and content, got {_short(item)}")
    if item.get("role") not in ROLES:
        raise ValueError(f"{what}: role must be one of {', '.join(ROLES)}, got {_short(item.get('role'))}")
    content = item.get("content")
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not (content.strip() or item["role"] == "assistant"):
        raise ValueError(f"{what}: content must be text, got {_short(content)}; pictures and the like cannot be used")
    return {str(key): entry for key, entry in item.items() if entry is not None} | {"content": content}


def plain_text(messages: Messages) -> str:
    """The text of a conversation that is one turn of the user; for others, roles and texts, to tell prompts apart."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def single_user_turn(messages: Messages, template: str) -> str:
    """The problem's text for a template that is no chat template. ValueError when there is more than a user's turn."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    roles = ", ".join(str(message["role"]) for message in messages)
    raise ValueError(
        f"a prompt of {len(messages)} turns ({roles}) cannot be put into template {template}, which takes one user's "
        "turn; set data.template=chat, or keep only the user's turn"
    )


def probe(render: Render) -> ChatFacts:
    """Find out what a template does to reasoning and to system turns."""
    question, reasoning, answer, second, system = _PROBE
    turn = {"role": "user", "content": question}
    reply = {"role": "assistant", "content": f"{THINK}\n{reasoning}\n{END_THINK}\n\n{answer}"}
    earlier = render([turn, reply, {"role": "user", "content": second}], True)
    try:
        keeps_system = system in render([{"role": "system", "content": system}, turn], True)
    except UserError:  # some refuse the role
        keeps_system = False
    return ChatFacts(
        keeps_earlier=reasoning in earlier,
        keeps_last=reasoning in render([turn, reply], False),
        opens_think=earlier.rstrip().endswith(THINK),
        keeps_system=keeps_system,
    )


def notes_on(facts: ChatFacts) -> list[str]:
    """What a person should know before prompts are put into this template; empty if nothing is unusual."""
    notes = []
    if not facts.keeps_earlier:
        cut = "of earlier turns" if facts.keeps_last else "of every turn"
        notes.append(
            f"the chat template drops the assistant's <think>...</think> {cut}; the model never sees reasoning of "
            "turns before the one it writes"
        )
    if facts.opens_think:
        notes.append(
            "the chat template ends prompts with <think>; it counts as the response's first tag when format and "
            "answers are graded, and responses to imitate begin after it"
        )
    if not facts.keeps_system:
        notes.append("the chat template leaves system turns out or refuses them")
    return notes


def after_prompt(prompt: str, response: str) -> str:
    """`response` as it goes on from `prompt`: without its own `<think>` if the prompt ends with one."""
    if not prompt.rstrip().endswith(THINK) or not response.lstrip().startswith(THINK):
        return response
    rest = response.lstrip()[len(THINK) :]
    return rest.lstrip("\n") if prompt.endswith("\n") else rest


def split_conversation(messages: Sequence[Any], render: Render, where: str) -> tuple[str, str]:
    """A conversation to imitate as (prompt, response): all but the last turn rendered, the assistant's last as it is.

    The response is never rendered, so its reasoning stays. UserError naming `where` if an earlier turn has reasoning
    that the template drops (what is learnt would not be what was written), or if the messages are malformed.
    """
    try:
        if not messages or not isinstance(messages[-1], Mapping) or messages[-1].get("role") != "assistant":
            raise ValueError("the last message must be the assistant's, the response to imitate")
        context = read_messages(messages[:-1])
        response = str(_message(messages[-1], f"message {len(messages)}")["content"])
    except ValueError as error:
        raise UserError(f"{where}: messages: {error}") from None
    prompt = render(context, True)
    for index, message in enumerate(context):
        reasoning = str(message["content"]).partition(THINK)[2].partition(END_THINK)[0].strip()
        if message["role"] == "assistant" and reasoning and reasoning not in prompt:
            raise UserError(
                f"{where}: the chat template drops the reasoning of message {index + 1}; make each answer the last "
                "turn of a line of its own, or remove <think>...</think> from earlier turns"
            )
    return prompt, after_prompt(prompt, response)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
