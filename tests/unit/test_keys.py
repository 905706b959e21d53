"""Key files: made complete and private, read with suspicion, printed as Secrets with what each role needs."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq

from common.config import RunConfig, load_config
from common.errors import UserError
from common.keys import (
    DIALS,
    KEY_ROLES,
    LETS_IN,
    KeyRole,
    Keys,
    _warn_once,
    check_keys,
    files_of,
    generate,
    make_keys,
)
from common.lifecycle import RunPaths
from launcher.cli import main
from learner.node import place_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def configuration(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({"model": "tiny", "data": {"train": "x"}, **sections})


# ------------------------------------------------------------------ making


def test_keys_are_private_and_complete(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {f"{role}.{kind}" for role in KEY_ROLES for kind in ("public", "secret")}
    assert {path.name for path in folder.iterdir()} == names
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(path.read_bytes()) == 41
        assert path.read_bytes().endswith(b"\n")
    for role in KEY_ROLES:
        keys = Keys.load(folder, role)
        assert zmq.curve_public(keys.secret) == keys.public
        assert keys.peers.keys() == {*DIALS[role], *LETS_IN[role]}


def test_a_folder_that_exists_is_left_as_it_is(folder: Path) -> None:
    before = Keys.load(folder, "actor")
    with pytest.raises(UserError, match="exists; name one that does not"):
        make_keys(folder)
    make_keys(folder, exist_ok=True)
    assert Keys.load(folder, "actor") == before
    assert [path.name for path in folder.parent.iterdir()] == ["keys"]


def test_where_nothing_can_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/keys: cannot be made: .*; name a folder you may write"):
        make_keys(tmp_path / "file" / "keys")


def test_processes_that_start_together_share_one_set(tmp_path: Path) -> None:
    paths, together = RunPaths(tmp_path), threading.Barrier(5)
    found: dict[KeyRole, Keys | None] = {}

    def start(role: KeyRole) -> None:
        together.wait()
        found[role] = Keys.for_process(configuration(), paths, role)

    threads = [threading.Thread(target=start, args=[role]) for role in KEY_ROLES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    broker = found["broker"]
    assert broker is not None
    for role in LETS_IN["broker"]:
        keys = found[role]
        assert keys is not None
        assert (keys.public, keys.peers["broker"]) == (broker.peers[role], broker.public)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


# ------------------------------------------------------------------ which keys a process has


def test_a_run_makes_its_own_once(tmp_path: Path) -> None:
    first = Keys.for_process(configuration(), RunPaths(tmp_path), "actor")
    assert first is not None
    assert first.folder == tmp_path / "keys"
    assert Keys.for_process(configuration(), RunPaths(tmp_path), "actor") == first


def test_named_keys_are_taken_and_none_are_made(tmp_path: Path, folder: Path) -> None:
    config = configuration(security={"keys": str(folder)})
    assert Keys.for_process(config, RunPaths(tmp_path / "run"), "learner") == Keys.load(folder, "learner")
    check_keys(config, "learner")
    missing = configuration(security={"keys": str(tmp_path / "none")})
    with pytest.raises(UserError, match="none: no such folder of keys; make one with: zeroq keygen"):
        Keys.for_process(missing, RunPaths(tmp_path), "learner")
    with pytest.raises(UserError, match="no such folder"):
        check_keys(missing, "learner")


def test_keys_of_other_machines_cannot_be_made_here(tmp_path: Path) -> None:
    ports = {"learner": 1, "actor": 2, "evaluator": 3, "monitor": 4}
    config = configuration(broker={"address": "zeroq-broker", "ports": ports})
    with pytest.raises(UserError, match=r"security\.keys: name the folder"):
        Keys.for_process(config, RunPaths(tmp_path), "actor")
    with pytest.raises(UserError, match=r"security\.keys: name the folder"):
        check_keys(config, "actor")
    assert not list(tmp_path.iterdir())


OPEN = {
    "host": "0.0.0.0",
    "address": "broker.lab",
    "ports": dict.fromkeys(("learner", "actor", "evaluator", "monitor"), 1),
}


@pytest.mark.parametrize(
    ("role", "sections", "named"),
    [
        ("broker", {"broker": OPEN}, "broker.host=0.0.0.0,"),
        ("evaluator", {"broker": OPEN}, "broker.address=broker.lab,"),
        ("monitor", {"broker": OPEN}, "broker.address=broker.lab,"),
        ("monitor", {"broker": {"host": "10.0.0.6"}}, "broker.host=10.0.0.6,"),
        ("learner", {"broker": OPEN, "weights": {"host": "::"}}, "broker.address=broker.lab, weights.host=::,"),
        ("actor", {"weights": {"host": "0.0.0.0", "address": "10.0.0.7"}}, "at weights.address=10.0.0.7,"),
        ("actor", {"weights": {"host": "10.0.0.8"}}, "at weights.host=10.0.0.8,"),
    ],
)
def test_plaintext_beyond_this_machine_is_warned_of_once(
    role: KeyRole, sections: dict[str, Any], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_once.cache_clear()
    config = configuration(security={"mode": "off"}, **sections)
    for _ in range(2):
        assert Keys.for_process(config, RunPaths(tmp_path), role) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert named in record.message
    assert "security.mode=curve" in record.message


def test_plaintext_between_nodes_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    _warn_once.cache_clear()
    options = argparse.Namespace(rendezvous="learner-0.lab:7620", rank=0, nodes=1)
    place_of(configuration(security={"mode": "off"}), options)
    assert "--rendezvous=learner-0.lab," in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_plaintext_on_this_machine_is_not_warned_of(
    host: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_once.cache_clear()
    sections = {"broker": {**OPEN, "host": host, "address": host}, "weights": {"host": host}}
    for role in KEY_ROLES:
        Keys.for_process(configuration(security={"mode": "off"}, **sections), RunPaths(tmp_path), role)
    dialled_by_loopback = configuration(security={"mode": "off"}, broker={"host": "0.0.0.0"})
    Keys.for_process(dialled_by_loopback, RunPaths(tmp_path), "evaluator")
    assert not caplog.records


def test_plaintext_needs_no_keys(tmp_path: Path) -> None:
    config = configuration(security={"mode": "off", "keys": str(tmp_path / "none")})
    assert Keys.for_process(config, RunPaths(tmp_path), "actor") is None
    check_keys(config, "actor")
    assert not list(tmp_path.iterdir())


def test_keys_are_checked_without_making_any() -> None:
    check_keys(configuration(), "actor")


def test_off_needs_no_quotes_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: tiny\ndata: {train: x}\nsecurity: {mode: off}\nevaluator: {code: off}\n")
    config = load_config(file)
    assert (config.security.mode, config.evaluator.code) == ("off", "off")
    assert load_config(file, ["evaluator.code=on"]).evaluator.code == "on"
    with pytest.raises(UserError, match=r"security\.mode = 'on': Input should be 'curve' or 'off'"):
        load_config(file, ["security.mode=on"])


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("role", KEY_ROLES)
def test_a_process_needs_its_files_and_no_others(folder: Path, role: KeyRole) -> None:
    needed = files_of(role)
    for path in folder.iterdir():
        if path.name not in needed:
            path.unlink()
    keys = Keys.load(folder, role)
    assert len({keys.public, *keys.peers.values()}) == 1 + len(keys.peers)
    for name in needed:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"keys/{name}: missing; the {role} needs {role}\.secret"):
            Keys.load(folder, role)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)


def spoil_mode(mode: int, name: str = "actor.secret") -> Callable[[Path], object]:
    return lambda folder: (folder / name).chmod(mode)


def spoil_content(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def swap(name: str, other: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / other).read_bytes())


def as_folder(folder: Path) -> None:
    (folder / "actor.secret").unlink()
    (folder / "actor.secret").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_mode(0o644), r"actor\.secret: mode 0644: everybody on this machine can read it; chmod 600 /.*secret"),
        (spoil_mode(0o604), r"actor\.secret: mode 0604: everybody"),
        (spoil_mode(0o620), r"actor\.secret: mode 0620: others can write it; chmod go-w"),
        (spoil_mode(0o602), r"actor\.secret: mode 0602: others can write it"),
        (spoil_mode(0o646, "broker.public"), r"broker\.public: mode 0646: others can write it"),
        (spoil_content("actor.secret", b""), r"actor\.secret: is no key \(40 characters of Z85\)"),
        (spoil_content("actor.secret", b"x" * 41), "is no key"),
        (spoil_content("actor.secret", b"#" * 40), "is no key"),
        (spoil_content("broker.public", b"a" * 20 + bytes(20)), r"broker\.public: is no key"),
        (spoil_content("broker.public", b"\xff" * 40), r"broker\.public: is no key"),
        (spoil_content("learner.public", b"a" * 40 + b"\n\n"), r"learner\.public: is no key"),
        (swap("actor.secret", "evaluator.secret"), r"actor\.public: does not belong to actor\.secret beside it"),
        (swap("learner.public", "broker.public"), r"learner\.public: is the key of the broker, too"),
        (swap("broker.public", "actor.public"), r"broker\.public: is the key of the actor, too"),
        (as_folder, r"actor\.secret: cannot be read: Is a directory"),
    ],
)
def test_bad_keys_are_one_clear_line(folder: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=words) as raised:
        Keys.load(folder, "actor")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640])
def test_a_pods_group_may_read(folder: Path, mode: int) -> None:
    """Kubernetes: defaultMode 0400 and an fsGroup give 0440."""
    (folder / "actor.secret").chmod(mode)
    (folder / "broker.public").chmod(mode | 0o444)
    Keys.load(folder, "actor")


def test_a_secret_is_not_printed(folder: Path) -> None:
    keys = Keys.load(folder, "actor")
    assert keys.secret.decode() not in repr(keys)
    assert keys.secret.decode() not in str(dataclasses.replace(keys, role="learner"))


# ------------------------------------------------------------------ zeroq keygen


def test_keygen_makes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "keys"
    assert main(["keygen", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    for role in KEY_ROLES:
        Keys.load(target, role)
    assert main(["keygen", str(target)]) == 2
    assert "exists; name one that does not, or remove it" in capsys.readouterr().err
    assert main(["keygen"]) == 2
    assert "name a folder to make, or give --k8s" in capsys.readouterr().err


def write_secrets(text: str, folder: Path, namespace: str) -> dict[str, set[str]]:
    """Each Secret as a volume shows it, in a folder of its role; names of its files by role."""
    files: dict[str, set[str]] = {}
    for secret in yaml.safe_load_all(text):
        assert (secret["apiVersion"], secret["kind"], secret["type"]) == ("v1", "Secret", "Opaque")
        assert secret["metadata"]["namespace"] == namespace
        role = secret["metadata"]["name"].removeprefix("zeroq-keys-")
        (folder / role).mkdir(parents=True)
        for name, content in secret["data"].items():
            (folder / role / name).write_bytes(base64.b64decode(content, validate=True))
            (folder / role / name).chmod(0o440)
        files[role] = set(secret["data"])
    return files


def test_secrets_hold_what_each_role_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "--k8s", "--namespace", "lab-7"]) == 0
    files = write_secrets(capsys.readouterr().out, tmp_path, "lab-7")
    assert files == {role: set(files_of(role)) for role in KEY_ROLES}
    loaded = {role: Keys.load(tmp_path / role, role) for role in KEY_ROLES}
    for role in KEY_ROLES:  # all of them are of one set
        for peer, key in loaded[role].peers.items():
            assert loaded[peer].public == key


def test_secrets_can_be_made_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    for attempt in ("made", "used again"):
        assert main(["keygen", str(folder), "--k8s"]) == 0
        write_secrets(capsys.readouterr().out, tmp_path / attempt, "zeroq")
        secret = (tmp_path / attempt / "evaluator" / "evaluator.secret").read_bytes()
        assert secret == (folder / "evaluator.secret").read_bytes()
    (folder / "monitor.secret").chmod(0o644)
    assert main(["keygen", str(folder), "--k8s"]) == 2
    captured = capsys.readouterr()
    assert "monitor.secret: mode 0644" in captured.err
    assert not captured.out


@pytest.mark.parametrize("name", ["", "Zeroq", "a b", "x: y", "-a", "a" * 64])
def test_a_namespace_is_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "--k8s", f"--namespace={name}"]) == 2
    captured = capsys.readouterr()
    assert "no name of a namespace" in captured.err
    assert not captured.out


def test_every_pair_is_new() -> None:
    assert not set(generate().values()) & set(generate().values())
