"""The command line that all processes of a run share: configuration, overrides, --check, probes, exit codes."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import cli
from common.cli import Process, main
from common.errors import RunFailure, UserError
from common.keys import make_keys
from common.lifecycle import RunPaths, append_record, wait_for_endpoint
from launcher.monitor import LineTail
from learner.weights.publisher import WeightPublisher
from tests.learner_rig import ROOT, make_config

PORTS = {"learner": 7601, "actor": 7602, "evaluator": 7603, "monitor": 7604}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """`call(role, *arguments, run=...)`: `main` of a process in DIR, without signal handlers of its own."""
    monkeypatch.setattr(cli, "die_with_parent", lambda: None)
    monkeypatch.setattr(cli, "configure_logging", lambda name: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

    def invoke(
        role: str, *arguments: str, run: Callable[[Process], None] = lambda process: None, **options: Any
    ) -> int:
        monkeypatch.setattr(sys, "argv", [role, "--run-dir", str(tmp_path / "run"), *arguments])
        return main(role, run, "a process", **options)

    yield invoke
    for number, handler in before.items():
        signal.signal(number, handler)


def write(path: Path, **sections: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = make_config("some/model", learner={"collective_timeout_s": 600.0}).model_dump(
        mode="json", exclude_unset=True
    )
    path.write_text(yaml.safe_dump(tree | sections))
    return path


def test_configuration_file_overrides_and_probes(call: Callable[..., int], tmp_path: Path) -> None:
    file = write(tmp_path / "etc" / "config.yaml", seed=3)
    seen: list[Process] = []

    def run(process: Process) -> None:
        seen.append(process)
        record = json.loads((process.paths.processes / "broker-7.json").read_text())
        process.health.beat("loop", "testing")
        with urllib.request.urlopen(f"http://127.0.0.1:{record['metrics_port']}/livez", timeout=5) as reply:
            assert reply.read() == b"ok: loop: testing\n"

    assert call("broker", "--config", str(file), "learner.lr=2e-3", "--name", "broker-7", "seed=4", run=run) == 0
    assert (seen[0].config.seed, seen[0].config.learner.lr, seen[0].name) == (4, 2e-3, "broker-7")
    assert seen[0].paths.root == tmp_path / "run"


def test_the_run_directory_has_the_configuration_by_default(call: Callable[..., int], tmp_path: Path) -> None:
    write(tmp_path / "run" / "config.yaml", model="tiny")
    models: list[str] = []
    assert call("actor", run=lambda process: models.append(process.config.model)) == 0
    assert models == [str(tmp_path / "run" / "model")]  # where zeroq prepare makes it


@pytest.mark.parametrize(("error", "code", "line"), [(UserError, 2, "error: no"), (RunFailure, 1, "failed: no")])
def test_exit_codes(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Any, code: int, line: str
) -> None:
    write(tmp_path / "run" / "config.yaml")

    def run(_: Process) -> None:
        raise error("no")

    assert call("broker", run=run) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_a_full_disk_is_one_line_and_other_faults_keep_their_trace(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run" / "config.yaml")

    def full(process: Process) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/run/events.jsonl")

    assert call("broker", run=full) == 1
    error = capsys.readouterr().err
    assert error == "failed: /run/events.jsonl: No space left on device; what was saved before is whole\n"

    def fault(process: Process) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        call("broker", run=fault)


def test_a_line_that_a_full_disk_cut_off_stays_one_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    append_record(file, {"step": 1})
    with file.open("a") as torn:
        torn.write('{"step": 2, "rew')
    append_record(file, {"step": 2})
    append_record(file, {"step": 3})
    assert file.read_text().splitlines() == ['{"step": 1}', '{"step": 2, "rew', '{"step": 2}', '{"step": 3}']
    assert LineTail(file).read() == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_check_starts_nothing_and_writes_nothing(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "config.yaml")

    def run(_: Process) -> None:
        raise AssertionError("started")

    checked: list[str] = []
    assert call("evaluator", "--config", str(file), "--check", run=run, check=lambda p: checked.append(p.name)) == 0
    assert capsys.readouterr().out == f"evaluator: {file} is in order\n"
    assert checked == ["evaluator"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


@pytest.mark.parametrize(
    ("role", "changes", "line"),
    [
        (
            "broker",
            {"metrics": {"port": 7602}, "broker": {"ports": PORTS}},
            "metrics.port=7602 is also broker.ports.actor",
        ),
        ("broker", {"broker": {"host": "192.0.2.1"}}, "broker.host=192.0.2.1: cannot bind there"),
        ("actor", {"metrics": {"host": "192.0.2.1"}}, "metrics.host=192.0.2.1: cannot bind there"),
        (
            "actor",
            {"broker": {"address": "tcp://b:7", "ports": PORTS}},
            "broker.address=tcp://b:7: neither a host name",
        ),
        ("learner", {"weights": {"host": "0.0.0.0"}}, "weights.host=0.0.0.0: actors cannot reach the learner by that"),
        ("learner", {"weights": {"address": "learner:7610"}}, "weights.address=learner:7610: neither a host name"),
        ("actor", {"security": {"keys": "/nowhere/keys"}}, "/nowhere/keys: no such folder of keys"),
        ("actor", {"learner": {"lr": "fast"}}, "learner.lr = 'fast'"),
    ],
)
def test_check_finds_what_is_wrong(
    call: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    role: str,
    changes: dict[str, Any],
    line: str,
) -> None:
    file = write(tmp_path / "config.yaml", **changes)
    assert call(role, "--config", str(file), "--check") == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_check_wants_a_directory_that_can_be_written(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "config.yaml")
    (tmp_path / "run").write_text("a file")
    assert call("broker", "--config", str(file), "--check") == 2
    assert f"--run-dir={tmp_path / 'run'}: {tmp_path / 'run'} is no directory" in capsys.readouterr().err
    (tmp_path / "run").unlink()
    monkeypatch.setattr("common.check.os.access", lambda path, mode: False)  # tests may run as root
    assert call("broker", "--config", str(file), "--check") == 2
    assert f"may not write to {tmp_path}; mount a writable volume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--run-dir"], "argument --run-dir: expected one argument"),
        (["--run-dir", "d", "--colour"], "unrecognized arguments: --colour"),
        ([], "the following arguments are required: --run-dir"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.parse_arguments("broker", "", arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}; see python -m broker --help\n"


def test_the_broker_is_found_by_its_address(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    config = make_config("m", broker={"address": "zeroq-broker", "ports": PORTS})
    assert wait_for_endpoint(paths, "evaluator", broker=config.broker) == "tcp://zeroq-broker:7603"
    config = make_config("m", broker={"address": "fd00::1", "ports": PORTS})
    assert wait_for_endpoint(paths, "learner", broker=config.broker) == "tcp://[fd00::1]:7601"
    paths.endpoints.write_text(json.dumps({"actor": "tcp://127.0.0.1:5"}))
    assert wait_for_endpoint(paths, "actor", broker=make_config("m").broker) == "tcp://127.0.0.1:5"


def test_the_learner_binds_one_address_and_is_reached_by_another() -> None:
    config = make_config("m", weights={"address": "localhost"})
    publisher = WeightPublisher(config, host="127.0.0.1", address="localhost")
    port = publisher.endpoint.rpartition(":")[2]
    try:
        assert publisher.endpoint == f"tcp://localhost:{port}"
        with pytest.raises(UserError, match=rf"weights\.port={port}: cannot listen there"):
            WeightPublisher(config, host="127.0.0.1", port=int(port))
    finally:
        publisher.close()


@pytest.mark.parametrize("room", ["broker", "actor", "evaluator", "learner"])
def test_every_room_checks_its_configuration_without_torch(tmp_path: Path, room: str) -> None:
    make_keys(tmp_path / "keys")
    file = write(
        tmp_path / "config.yaml",
        broker={"address": "zeroq-broker", "ports": PORTS, "host": "0.0.0.0"},
        weights={"host": "0.0.0.0", "address": "zeroq-learner-0.zeroq-learner.zeroq.svc", "port": 7610},
        security={"keys": str(tmp_path / "keys")},
        metrics={"host": "0.0.0.0", "port": 9400},
    )
    program = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_module({room!r}, run_name='__main__')"
    command = [sys.executable, "-c", program, "--run-dir", str(tmp_path / "run"), "--config", str(file), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{room}: {file} is in order\n"), done.stderr


def test_sigusr2_writes_where_each_thread_stands_and_the_process_goes_on() -> None:
    program = (
        "import os, signal\nfrom common.lifecycle import configure_logging\nconfigure_logging('actor-0')\n"
        "def stuck_here():\n    os.kill(os.getpid(), signal.SIGUSR2)\nstuck_here()\nprint('goes on')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert "in stuck_here" in done.stderr
