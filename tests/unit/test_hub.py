"""Uploads to a hub that runs here: what goes, what stays, faults, and a run whose uploads fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import HubSection
from common.errors import RunFailure, UserError
from common.lifecycle import RunPaths
from launcher import hub as uploads
from launcher.cli import main
from launcher.hub import CheckpointPusher, Target, check_hub, newest_checkpoint, push_model, resolve
from tests.fake_hub import TOKEN, Hub
from tests.unit.launcher_inputs import make_model_directory, write_config

REPO = "me/r1-small"

# huggingface_hub 2.4 sends an LFS object in a way that its own HTTP client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(uploads, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(uploads, "POLL_S", 0.02)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def make_run(folder: Path, *steps: int) -> RunPaths:
    """A run's directory with a checkpoint for each of `steps`."""
    paths = RunPaths(folder / "r1")
    for step in steps:
        make_checkpoint(paths, step)
    tree = {"model": "Qwen/Qwen2.5-1.5B", "run": {"dir": str(folder)}, "data": {"train": "/home/me/secret/sums.jsonl"}}
    paths.config.write_text(yaml.safe_dump(tree))
    paths.versions.write_text(json.dumps({"zeroq": "0.1.0", "commit": "abc123", "packages": {"torch": "2.13.0"}}))
    paths.summary.write_text(json.dumps({"result": "finished", "steps": 60, "pass_at_1_after": 0.71234, "x": None}))
    return paths


def make_checkpoint(paths: RunPaths, step: int) -> Path:
    path = make_model_directory(paths.checkpoints / f"step-{step}")
    (path / "model.safetensors").write_bytes(b"weights of step %d" % step)
    (path / "trainer").mkdir()
    (path / "trainer" / "optimizer.pt").write_bytes(b"not for others")
    (path / "manifest.json").write_text("{}")
    return path


def test_a_run_is_pushed_with_a_card_and_without_the_trainers_state(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_run(tmp_path, 20, 60, 100)
    shutil.rmtree(paths.checkpoints / "step-100")
    assert main(["push", str(paths.root), REPO, "--private"]) == 0
    address = capsys.readouterr().out.splitlines()[-1]
    assert address.startswith(f"{hub.url}/{REPO}/commit/")
    files = hub.files[REPO]["main"]
    assert set(files) == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files["model.safetensors"] == b"weights of step 60"
    assert (hub.visibility[REPO], hub.messages) == ("private", ["zeroq: step 60"])
    card = files["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "Qwen/Qwen2.5-1.5B"
    assert head["library_name"] == "transformers"
    for part in ("| pass_at_1_after | 0.7123 |", "| steps | 60 |", "- commit: abc123", "- torch: 2.13.0", "# r1-small"):
        assert part in card
    assert "sums.jsonl" in card
    assert "secret" not in card  # no paths of the machine
    assert str(tmp_path) not in card
    assert not list(paths.checkpoints.glob(".*"))
    assert not (paths.checkpoints / "step-60" / "README.md").exists()


def test_a_plain_model_goes_to_a_branch_with_its_own_card(hub: Hub, tmp_path: Path) -> None:
    model = make_model_directory(tmp_path / "model")
    (model / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    push_model(model, Target(REPO, revision="v2"))
    assert hub.files[REPO]["v2"]["README.md"] == b"---\nlicense: mit\n---\nmine\n"
    assert hub.files[REPO]["main"] == {}
    assert hub.visibility[REPO] is None
    push_model(model, Target(REPO, revision="v2"))  # both exist now
    assert resolve(str(model)) == (model, None)
    paths = make_run(tmp_path, 3)
    assert resolve(str(paths.checkpoints / "step-3")) == (paths.checkpoints / "step-3", paths)


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ("create", 500),
        ("preupload", None),
        ("batch", 503),
        ("objects/[0-9a-f]", None),
        ("commit", 502),
        ("commit", 429),
    ],
)
def test_what_can_pass_is_tried_again(hub: Hub, tmp_path: Path, where: str, answer: int | None) -> None:
    model = make_model_directory(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"w")
    hub.faults = [(where, answer)]
    push_model(model, Target(REPO))
    assert hub.faults == []
    assert hub.files[REPO]["main"]["model.safetensors"] == b"w"


def test_a_hub_that_stays_away_is_a_failure(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model_directory(tmp_path / "model")
    hub.faults = [("create", 500)] * 100
    assert main(["push", str(model), REPO]) == 1
    error = capsys.readouterr().err
    assert "failed 4 times" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    with pytest.raises(RunFailure, match="failed 4 times, last by ConnectError"):
        push_model(model, Target(REPO))


def test_what_no_other_try_can_mend_is_said_at_once(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model_directory(tmp_path / "model")
    hub.faults = [("create", 403)]
    assert main(["push", str(model), REPO]) == 2
    assert "refused with 403" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["push", str(model), REPO]) == 2
    error = capsys.readouterr().err
    assert "refused with 401" in error
    assert "the token is not valid" in error
    assert error.count("\n") == 1
    assert hub.requests.count("POST /api/repos/create") == 2
    asked = len(hub.requests)
    monkeypatch.setattr(uploads, "_token", lambda: None)
    assert main(["push", str(model), REPO]) == 2
    assert "set HF_TOKEN or run `hf auth login`" in capsys.readouterr().err
    assert len(hub.requests) == asked  # without a token nothing was asked


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", REPO], "no such directory"),
        (["empty", REPO], "no config.json there"),
        (["run", REPO], "no checkpoint yet"),
        (["model", "a/b/c"], "a/b/c"),
    ],
)
def test_wrong_input_is_one_line(
    hub: Hub,
    tmp_path: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: x")
    make_model_directory(tmp_path / "model")
    assert main(["push", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not hub.files


def follow(paths: RunPaths, **settings: Any) -> tuple[CheckpointPusher, list[str]]:
    said: list[str] = []
    section = HubSection(push_to=REPO, **settings)
    return CheckpointPusher(section, paths, say=said.append), said


def test_the_last_checkpoint_is_pushed_at_the_end_and_once(hub: Hub, tmp_path: Path) -> None:
    paths = make_run(tmp_path, 20, 60)
    pusher, said = follow(paths)
    with pusher:
        assert hub.messages == []
        pusher.finish()
    assert (hub.messages, said, hub.visibility[REPO]) == (["zeroq: step 60"], [], "private")
    again, _ = follow(paths)  # a run that was continued and had nothing more to do
    with again:
        again.finish()
    assert hub.messages == ["zeroq: step 60"]


def test_every_checkpoint_is_pushed_while_training_goes_on(hub: Hub, tmp_path: Path) -> None:
    paths = make_run(tmp_path, 20)
    (paths.checkpoints / ".push-killed").mkdir()
    pusher, said = follow(paths, every_checkpoint=True)
    # The learner removes old checkpoints whenever it likes: here, while this one is being uploaded.
    hub.before_commit = lambda: shutil.rmtree(paths.checkpoints / "step-20", ignore_errors=True)
    with pusher:
        wait_for(lambda: hub.messages == ["zeroq: step 20"])
        make_checkpoint(paths, 40)
        wait_for(lambda: hub.messages == ["zeroq: step 20", "zeroq: step 40"])
        pusher.finish()
    assert (said, len(hub.messages)) == ([], 2)
    assert hub.files[REPO]["main"]["model.safetensors"] == b"weights of step 40"
    assert [path.name for path in paths.checkpoints.iterdir()] == ["step-40"]


def wait_for(condition: Any) -> None:
    import time

    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_failed_push_does_not_end_a_run_and_is_repeated_at_its_end(hub: Hub, tmp_path: Path) -> None:
    paths = make_run(tmp_path, 20)
    pusher, said = follow(paths, every_checkpoint=True)
    hub.faults = [("create", 500)] * uploads.ATTEMPTS
    with pusher:
        wait_for(lambda: said)
        pusher.finish()
    assert len(said) == 1
    assert "training is not affected, repeat it with: zeroq push" in said[0]
    assert hub.messages == ["zeroq: step 20"]
    hub.faults = [("create", 401)]
    make_checkpoint(paths, 40)
    pusher, said = follow(paths)
    with pusher:
        pusher.finish()
    assert "refused with 401" in said[0]
    assert newest_checkpoint(paths) == paths.checkpoints / "step-40"


def test_no_token_is_said_before_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uploads, "_token", lambda: None)
    check_hub(HubSection())
    with pytest.raises(UserError, match=r"hub\.push_to=me/r1-small: no Hugging Face token"):
        check_hub(HubSection(push_to=REPO))
    assert main(["run", str(write_config(tmp_path)), f"hub.push_to={REPO}"]) == 2
    assert "no Hugging Face token" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="need push_to"):
        HubSection(every_checkpoint=True)
