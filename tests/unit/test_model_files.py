"""An actor without a model gets configuration and tokenizer from the learner, and no other file, whatever is sent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from actor import chunks, model_files
from actor.follow import STATIC
from actor.model_files import FilesInProgress, wait_for_model
from common.errors import RunFailure, UserError, WireError
from common.keys import Keys, make_keys
from common.lifecycle import StopFlag
from common.messages import (
    Header,
    ModelFile,
    PullFiles,
)
from common.model_files import MAX_TOTAL_BYTES, MODEL_FILE_NAMES, check_listing, set_digest
from common.wire import Envelope, decode, encode
from learner.weights import WeightPublisher
from learner.weights import files as served_module
from learner.weights.files import ServedFiles
from tests.unit.model_files_rig import Learner, config_of, contents, make_model, sent


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's directory; its tokenizer takes several chunks."""
    return make_model(tmp_path / "model", "one")


@pytest.fixture(autouse=True)
def small_chunks_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMALLEST_BYTES", "FIRST_BYTES", "LARGEST_BYTES"):
        monkeypatch.setattr(chunks, name, 1000)
    monkeypatch.setattr(model_files, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(model_files, "ANSWER_S", 0.5)


@pytest.fixture
def learners() -> Iterator[Callable[..., Learner]]:
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[PullFiles], tuple[Header, bytes] | None]) -> Learner:
            learner = Learner(answer)
            stack.callback(learner.close)
            return learner

        yield start


def fetch(endpoints: list[str | None], folder: Path, stop: StopFlag | None = None) -> Any:
    """Get the files; the broker names `endpoints` one after the other, then the last one for ever."""

    def find() -> str | None:
        return endpoints.pop(0) if len(endpoints) > 1 else endpoints[0]

    return wait_for_model(find, None, folder, StopFlag() if stop is None else stop)


# ---------------------------------------------------------------- what may be sent


def test_the_learner_serves_the_files_of_the_list_and_no_others(model: Path) -> None:
    served = ServedFiles.of(str(model))
    assert [file.name for file in served.files] == ["config.json", "tokenizer.json", "merges.txt"]
    assert len(served.data) == sum(file.size_bytes for file in served.files)


@pytest.mark.parametrize(
    "name", ["../config.json", "/etc/passwd", "model.safetensors", "modeling_own.py", "", "config.json/"]
)
def test_a_name_that_is_not_in_the_list_is_refused(model: Path, name: str) -> None:
    header, chunk = ServedFiles.of(str(model)).answer(PullFiles())
    fields = msgpack.unpackb(encode(header, {"chunk": chunk})[0])
    fields["files"][0]["name"] = name
    with pytest.raises(WireError, match=r"files\.0\.name"):
        decode([msgpack.packb(fields), chunk])


def test_sizes_are_bounded(model: Path) -> None:
    header, chunk = ServedFiles.of(str(model)).answer(PullFiles())
    fields = msgpack.unpackb(encode(header, {"chunk": chunk})[0])
    fields["files"][0]["size_bytes"] = 1 << 40
    with pytest.raises(WireError, match="size_bytes"):
        decode([msgpack.packb(fields), chunk])
    largest = [ModelFile(name=name, size_bytes=60 << 20, digest="0" * 64) for name in MODEL_FILE_NAMES[:3]]
    with pytest.raises(WireError, match=f"exceed {MAX_TOTAL_BYTES}"):
        check_listing(largest)


def test_a_list_has_each_name_once_and_a_configuration() -> None:
    config, tokenizer = (ModelFile(name=n, size_bytes=1, digest="0" * 64) for n in ("config.json", "tokenizer.json"))
    assert check_listing([config, tokenizer]) == 2
    with pytest.raises(WireError, match="twice"):
        check_listing([config, config])
    with pytest.raises(WireError, match=r"no config\.json"):
        check_listing([tokenizer])


def test_a_set_has_another_name_when_one_byte_differs(model: Path, tmp_path: Path) -> None:
    before = ServedFiles.of(str(model))
    assert set_digest(reversed(before.files)) == before.digest
    (model / "merges.txt").write_text("a c\n")
    assert ServedFiles.of(str(model)).digest != before.digest


def test_a_model_that_cannot_be_sent_is_one_clear_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_module, "MAX_MODEL_FILE_BYTES", 2000)
    with pytest.raises(UserError, match=r"tokenizer\.json: \d+ bytes are more than .*actor\.model_from=disk"):
        ServedFiles.of(str(model))
    with pytest.raises(UserError, match=r"no config\.json"):
        ServedFiles.of("nobody/has-such-a-model")


# ---------------------------------------------------------------- getting them


def test_a_real_publisher_sends_them_in_chunks(model: Path, tmp_path: Path) -> None:
    publisher = WeightPublisher(config_of(model, "learner"), host="127.0.0.1")
    try:
        got = fetch([None, None, publisher.endpoint], tmp_path / "run" / "models" / "actor-0")
    finally:
        publisher.close()
    assert contents(got.path) == sent(model)
    assert got.digest == ServedFiles.of(str(model)).digest
    assert [path.name for path in got.path.parent.iterdir()] == ["actor-0"]


def test_only_an_actors_key_opens_them(model: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    keys = {role: Keys.load(tmp_path / "keys", role) for role in ("learner", "actor", "evaluator")}
    as_actor = replace(keys["actor"], secret=keys["evaluator"].secret, public=keys["evaluator"].public)
    publisher = WeightPublisher(config_of(model, "learner"), host="127.0.0.1", keys=keys["learner"])
    try:
        got = wait_for_model(lambda: publisher.endpoint, keys["actor"], tmp_path / "got", StopFlag())
        assert got is not None
        assert contents(got.path) == sent(model)
        with pytest.raises(UserError, match=r"learner does not let this actor in"):
            wait_for_model(lambda: publisher.endpoint, as_actor, tmp_path / "not", StopFlag())
    finally:
        publisher.close()
    assert not (tmp_path / "not").exists()


def test_a_learner_of_other_keys_is_one_clear_line(model: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    make_keys(tmp_path / "others")
    theirs, ours = Keys.load(tmp_path / "others", "learner"), Keys.load(tmp_path / "keys", "actor")
    publisher = WeightPublisher(config_of(model, "learner"), host="127.0.0.1", keys=theirs)
    try:
        with pytest.raises(UserError, match=r"breaks off every handshake.*learner\.public"):
            wait_for_model(lambda: publisher.endpoint, ours, tmp_path / "not", StopFlag())
    finally:
        publisher.close()


def test_a_publisher_whose_actors_have_the_model_sends_none(model: Path, tmp_path: Path) -> None:
    publisher = WeightPublisher(config_of(model, "disk"), host="127.0.0.1")
    try:
        with pytest.raises(UserError, match=r"sends no model files.*actor\.model_from"):
            fetch([publisher.endpoint], tmp_path / "got")
    finally:
        publisher.close()


def test_a_learner_that_is_late_silent_or_dies_half_way_is_waited_for(
    model: Path, tmp_path: Path, learners: Callable[..., Learner]
) -> None:
    served = ServedFiles.of(str(model))
    silent = learners(lambda pull: None)
    dying = learners(lambda pull: served.answer(pull) if pull.offset == 0 else None)
    well = learners(served.answer)
    got = fetch([None, None, silent.endpoint, dying.endpoint, well.endpoint], tmp_path / "got")
    assert contents(got.path) == sent(model)
    assert len(silent.requests) == 1
    assert [pull.offset for pull in dying.requests] == [0, 1000]
    assert well.requests[0].offset == 0


def test_a_learner_that_comes_back_with_another_model_half_way_gives_that_one(
    model: Path, tmp_path: Path, learners: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "_MAX_BAD", 1)  # nothing about that is bad
    other = make_model(tmp_path / "other", "two")
    first, second = ServedFiles.of(str(model)), ServedFiles.of(str(other))
    learner = learners(lambda pull: (first if len(learner.requests) < 3 else second).answer(pull))
    got = fetch([learner.endpoint], tmp_path / "got")
    assert contents(got.path) == sent(other)
    assert got.digest == second.digest


def test_files_that_were_changed_on_the_way_are_never_written(
    model: Path, tmp_path: Path, learners: Callable[..., Learner]
) -> None:
    served = ServedFiles.of(str(model))

    def flip(pull: PullFiles) -> tuple[Header, bytes]:
        header, chunk = served.answer(pull)
        return header, bytes([chunk[0] ^ 1]) + chunk[1:]

    learner = learners(flip)
    with pytest.raises(RunFailure, match=r"unusable model files 3 times.*digest of config\.json"):
        fetch([learner.endpoint], tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_more_than_was_asked_for_is_not_even_received(
    model: Path, tmp_path: Path, learners: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "_MAX_BAD", 1)  # received, it would be bad, and the end
    stop = StopFlag()

    def flood(pull: PullFiles) -> tuple[Header, bytes] | None:
        if len(learner.requests) == 2:
            return stop.set()
        return ServedFiles.of(str(model)).answer(pull)[0], bytes(10_000)

    learner = learners(flood)
    assert fetch([learner.endpoint], tmp_path / "got", stop) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda header, chunk: (header, chunk + b"x" * 100_000), "bytes at 0 came"),
        (lambda header, chunk: (header, b""), "0 bytes at 0 came"),
        (lambda header, chunk: (header.model_copy(update={"offset": 7}), chunk), "at 7 came"),
        (lambda header, chunk: (header.model_copy(update={"model": "0" * 64}), chunk), "but the list of them gives"),
    ],
)
def test_a_reply_that_contradicts_itself_is_refused(model: Path, change: Any, why: str) -> None:
    header, chunk = change(*ServedFiles.of(str(model)).answer(PullFiles(max_bytes=100)))
    with pytest.raises(WireError, match=why):
        FilesInProgress(Envelope(header, {"chunk": chunk}))


def test_a_stop_ends_the_wait(
    tmp_path: Path, learners: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "ANSWER_S", 60.0)
    began = time.monotonic()
    stop = StopFlag()
    learner = learners(lambda pull: stop.set())
    assert fetch([None, learner.endpoint], tmp_path / "got", stop) is None
    assert len(learner.requests) == 1
    assert time.monotonic() - began < 30


def test_a_run_without_a_learner_has_no_model_for_actors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no learner.*actor\.model_from=disk"):
        fetch([None, STATIC], tmp_path / "got")


def test_what_is_there_is_replaced_and_never_half(
    model: Path, tmp_path: Path, learners: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learners(ServedFiles.of(str(model)).answer)
    folder = tmp_path / "got"
    folder.mkdir()
    (folder / "added_tokens.json").write_text("of an earlier model")
    (tmp_path / ".got.new").mkdir()
    (tmp_path / ".got.new" / "config.json").write_text("of a killed predecessor")
    assert contents(fetch([learner.endpoint], folder).path) == sent(model)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_files.os, "fsync", full)
    with pytest.raises(RunFailure, match=r"cannot write the model's files to .*got: .*No space left"):
        fetch([learner.endpoint], folder)
    assert not folder.exists()


def test_the_size_of_chunks_follows_the_link(
    model: Path, tmp_path: Path, learners: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of weights: a chunk that is too large never comes (actor/chunks.py)."""
    served = ServedFiles.of(str(model))

    def over_a_slow_link(pull: PullFiles) -> tuple[Header, bytes] | None:
        return served.answer(pull) if pull.max_bytes <= 300 else None

    monkeypatch.setattr(chunks, "SMALLEST_BYTES", 100)
    monkeypatch.setattr(chunks, "LARGEST_BYTES", 250)
    slow = learners(over_a_slow_link)
    assert contents(fetch([slow.endpoint], tmp_path / "slow").path) == sent(model)
    assert [pull.max_bytes for pull in slow.requests[:2]] == [1000, 250]
    monkeypatch.setattr(chunks, "LARGEST_BYTES", 16_000)
    quick = learners(served.answer)
    assert contents(fetch([quick.endpoint], tmp_path / "quick").path) == sent(model)
    assert [pull.max_bytes for pull in quick.requests[:2]] == [1000, 4000]
