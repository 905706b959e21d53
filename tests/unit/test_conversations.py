"""Chat prompts through templates that keep, drop and open reasoning, all written here by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from common.errors import UserError
from recipes.conversation_corpus import conversation_rows
from recipes.conversations import (
    ChatFacts,
    after_prompt,
    notes_on,
    plain_text,
    probe,
    read_messages,
    single_user_turn,
    split_conversation,
)
from recipes.model_files import PromptTokenizer
from recipes.prepare import build_data
from recipes.stages.corpus import CorpusRow, write_corpus
from tests.unit.launcher_inputs import make_config, make_model_directory

TURN = "[{{ message.role }}]{{ content }}"
# Everything is rendered as it is.
KEEPS = "{% for message in messages %}{% set content = message.content %}" + TURN + "{% endfor %}"
KEEPS += "{% if add_generation_prompt %}[assistant]{% endif %}"
# As in the R1 distillations: no answer keeps its reasoning, and the prompt opens the next one's.
CUT = "{% if message.role == 'assistant' and '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
DROPS = "{% for message in messages %}{% set content = message.content %}" + CUT + "{% endif %}" + TURN + "{% endfor %}"
DROPS += "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
# As in Qwen3: the last answer keeps its reasoning.
DROPS_EARLIER = KEEPS.replace(TURN, CUT.replace("and '<", "and not loop.last and '<") + "{% endif %}" + TURN)
# Some refuse the system's turn.
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + KEEPS

QUESTION = {"role": "user", "content": "2 + 2?"}
REPLY = {"role": "assistant", "content": "<think>two and two</think><answer>4</answer>"}


def tokenizer(folder: Path, template: str | None) -> PromptTokenizer:
    path = make_model_directory(folder, context=400)
    settings: dict[str, Any] = {"eos_token": "<end>", "tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {"chat_template": template} if template else {}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return PromptTokenizer(path)


@pytest.mark.parametrize(
    ("template", "facts", "says"),
    [
        (KEEPS, ChatFacts(True, True, False, True), []),
        (DROPS, ChatFacts(False, False, True, True), ["<think>...</think> of every turn", "ends prompts with <think>"]),
        (DROPS_EARLIER, ChatFacts(False, True, False, True), ["<think>...</think> of earlier turns"]),
        (NO_SYSTEM, ChatFacts(True, True, False, False), ["leaves system turns out or refuses them"]),
    ],
)
def test_templates_are_probed(tmp_path: Path, template: str, facts: ChatFacts, says: list[str]) -> None:
    found = tokenizer(tmp_path / "m", template).chat_facts()
    assert found == facts
    notes = notes_on(found)
    assert len(notes) == len(says)
    assert all(part in note for part, note in zip(says, notes, strict=True))


def test_messages_are_rendered_as_they_are(tmp_path: Path) -> None:
    chat = tokenizer(tmp_path / "m", KEEPS).chat
    system = {"role": "system", "content": "Be short."}
    assert chat("2 + 2?") == chat([QUESTION]) == "[user]2 + 2?[assistant]"
    assert chat([system, QUESTION]) == "[system]Be short.[user]2 + 2?[assistant]"
    with pytest.raises(UserError, match=r"refuses turns of system, user: no system role here"):
        tokenizer(tmp_path / "n", NO_SYSTEM).chat([system, QUESTION])
    with pytest.raises(UserError, match=r"no chat template; set data\.template"):
        tokenizer(tmp_path / "o", None).chat("x")


def test_contents_in_parts_are_joined_and_nulls_left_out() -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    assert read_messages([{"role": "user", "content": parts, "name": None}]) == [QUESTION]
    assert plain_text([QUESTION]) == single_user_turn([QUESTION], "bare") == "2 + 2?"
    with pytest.raises(ValueError, match=r"2 turns \(system, user\).*data\.template=chat"):
        single_user_turn([{"role": "system", "content": "x"}, QUESTION], "r1_zero")


def test_responses_begin_after_the_tag_that_the_prompt_opened() -> None:
    assert after_prompt("[assistant]<think>\n", "<think>\nwell</think>4") == "well</think>4"
    assert after_prompt("[assistant]<think>", "<think>\nwell</think>4") == "\nwell</think>4"
    assert after_prompt("[assistant]", "<think>well</think>4") == "<think>well</think>4"
    assert after_prompt("[assistant]<think>\n", "well</think>4") == "well</think>4"


def test_a_conversation_to_imitate_keeps_its_last_reasoning(tmp_path: Path) -> None:
    for folder, template, expected in (
        ("a", KEEPS, ("[user]2 + 2?[assistant]", REPLY["content"])),
        ("b", DROPS, ("[user]2 + 2?[assistant]<think>\n", "two and two</think><answer>4</answer>")),
    ):
        assert split_conversation([QUESTION, REPLY], tokenizer(tmp_path / folder, template).render, "a:1") == expected


def test_reasoning_that_the_template_would_drop_is_refused(tmp_path: Path) -> None:
    conversation = [QUESTION, REPLY, QUESTION, REPLY]
    keeps = tokenizer(tmp_path / "a", KEEPS).render
    assert "two and two" in split_conversation(conversation, keeps, "sft.jsonl:3")[0]
    for folder, template in (("b", DROPS), ("c", DROPS_EARLIER)):
        with pytest.raises(UserError, match=r"^sft\.jsonl:3: the chat template drops the reasoning of message 2; make"):
            split_conversation(conversation, tokenizer(tmp_path / folder, template).render, "sft.jsonl:3")
    plain = [QUESTION, {"role": "assistant", "content": "4"}, QUESTION, REPLY]
    assert split_conversation(plain, tokenizer(tmp_path / "d", DROPS_EARLIER).render, "x")[1] == REPLY["content"]
    for bad in ([QUESTION], [], [REPLY], [QUESTION, {"role": "assistant", "content": None}]):
        with pytest.raises(UserError, match=r"^x: messages: "):
            split_conversation(bad, keeps, "x")


def chat_config(folder: Path, rows: list[Any], template: str, *overrides: str) -> RunConfig:
    """A configuration whose data are `rows` and whose tokenizer has this chat template."""
    config = make_config(folder, "data.template=chat", "data.eval_size=1", *overrides)
    tokenizer(folder / "chat-model", template)
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config


def test_prepared_prompts_go_through_the_template_and_what_it_does_is_said(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"{i} + 1?"}], "answer": str(i + 1), "solution": "s"} for i in (1, 2)
    ]
    config = chat_config(tmp_path, rows, DROPS, "cold_start.steps=1")
    data = build_data(config, PromptTokenizer(tmp_path / "chat-model"), 400)
    assert {r["prompt"] for r in data.train + data.evaluation} == {
        f"[user]{i} + 1?[assistant]<think>\n" for i in (1, 2)
    }
    assert data.cold_start[0]["response"].startswith("s</think><answer>")  # not a second <think>
    assert [part in note for part, note in zip(("trl", "drops", "<think>"), data.notes, strict=True)] == [True] * 3


def test_conversations_in_other_templates_are_refused_with_their_line(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be short."}
    rows = [{"prompt": [system, {"role": "user", "content": f"{i} + 1?"}], "answer": "1"} for i in range(2)]
    config = chat_config(tmp_path, rows, NO_SYSTEM)
    model = PromptTokenizer(tmp_path / "chat-model")
    with pytest.raises(UserError, match=r"problems\.jsonl:\d: .*refuses turns of system, user"):
        build_data(config, model, 400)
    bare = config.model_copy(update={"data": config.data.model_copy(update={"template": "bare"})})
    with pytest.raises(
        UserError, match=r"problems\.jsonl:\d: a prompt of 2 turns .* template bare.*data\.template=chat"
    ):
        build_data(bare, model, 400)


def test_the_probe_does_not_depend_on_a_tokenizer() -> None:
    def render(messages: list[dict[str, Any]], _open: bool) -> str:
        return "".join(str(m["content"]) for m in messages)

    assert probe(render) == ChatFacts(True, True, False, True)


def test_conversations_become_rows_of_a_corpus(tmp_path: Path) -> None:
    render = tokenizer(tmp_path / "m", DROPS).render
    path = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [{"role": "system", "content": "Be short."}, QUESTION, REPLY], "language": "en"},
        {"id": "two", "prompt": [QUESTION], "completion": [REPLY], "source": "sums"},
        {"prompt": "2 + 2?", "completion": [{"role": "assistant", "content": "4"}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = conversation_rows(str(path), render)
    assert first == CorpusRow(
        id="chats.jsonl:1",
        source="chats",
        language="en",
        problem="system: Be short.\n\nuser: 2 + 2?",
        prompt="[system]Be short.[user]2 + 2?[assistant]<think>\n",
        response="two and two</think><answer>4</answer>",
        kind="general",
        difficulty=None,
        num_tokens=None,
        origin="chats.jsonl",
    )
    assert (second.id, second.source, second.problem) == ("two", "sums", "2 + 2?")
    assert third.response == "4"
    assert write_corpus(tmp_path / "corpus.parquet", [first, second, third]) == 3
    for bad, says in (
        ({"prompt": "x", "response": "y"}, "no conversation"),
        ({"messages": [QUESTION, REPLY, QUESTION, REPLY]}, "drops the reasoning of message 2"),
        ({"prompt": 3, "completion": [REPLY]}, "field 'prompt' must be text or a list of messages"),
    ):
        path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(UserError, match=rf"chats\.jsonl:2: .*{says}"):
            list(conversation_rows(str(path), render))
