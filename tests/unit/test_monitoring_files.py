"""`zeroq run --monitor`: the files of a run's Prometheus, with and without an installed one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from common.lifecycle import RunPaths, register_process
from launcher import monitoring
from launcher.monitoring import Monitoring, forget_url, replay, running_url
from launcher.processes import ProcessSpec


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_LOOK_EVERY_S", 0.0)


def targets(made: Monitoring) -> dict[str, str]:
    groups = json.loads((made.folder / "targets.json").read_text())
    assert all(set(group["labels"]) == {"run", "instance", "component"} for group in groups)
    return {group["labels"]["instance"]: group["targets"][0] for group in groups}


def test_a_restarted_process_is_found_at_its_new_port(paths: RunPaths) -> None:
    made = Monitoring(paths)
    assert targets(made) == {}
    register_process(paths, "actor-0", "actor", 1001)
    register_process(paths, "broker", "broker", 1002)
    made.update()
    assert targets(made) == {"actor-0": "127.0.0.1:1001", "broker": "127.0.0.1:1002"}
    register_process(paths, "actor-0", "actor", 1003)
    (paths.processes / "broker.json").unlink()
    made.update()
    assert targets(made) == {"actor-0": "127.0.0.1:1003"}
    before = (made.folder / "targets.json").stat().st_mtime_ns
    made.update()
    assert (made.folder / "targets.json").stat().st_mtime_ns == before, "written without need"


def test_it_looks_no_more_often_than_it_must(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_LOOK_EVERY_S", 3600.0)
    made = Monitoring(paths)
    register_process(paths, "actor-0", "actor", 1001)
    made.update()
    assert targets(made) == {}


def test_without_prometheus_there_are_files_and_a_word(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    made = Monitoring(paths)
    assert made.spec is None
    assert made.url is None
    assert running_url(paths) is None
    assert "prometheus is not installed" in made.announce()
    assert f"zeroq watch {paths.root} --html" in made.announce()
    (made.folder / "data").mkdir()
    assert replay(paths) is None


def test_prometheus_is_one_of_the_runs_processes_on_loopback(
    paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "prometheus").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "prometheus").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    started: list[ProcessSpec] = []

    class FakePool:
        add = staticmethod(started.append)

        @property
        def children(self) -> dict[str, ProcessSpec]:
            return {spec.name: spec for spec in started}

    made, pool = Monitoring(paths), FakePool()
    made.start(pool)  # type: ignore[arg-type]
    (spec,) = started
    assert (spec.name, spec.role) == ("prometheus", "prometheus")
    port = str(made.url).rpartition(":")[2]
    assert f"--web.listen-address=127.0.0.1:{port}" in spec.command
    assert f"--storage.tsdb.path={made.folder / 'data'}" in spec.command
    assert f"monitoring: http://127.0.0.1:{port} (Prometheus)" in capsys.readouterr().out
    made.look_after(pool)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    started.clear()
    made.look_after(pool)  # type: ignore[arg-type]
    made.look_after(pool)  # type: ignore[arg-type]
    assert capsys.readouterr().out.count("monitoring has ended, the run goes on; see") == 1


def test_rules_go_with_the_run(paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "RULES", tmp_path / "none.yaml")
    assert "rule_files" not in yaml.safe_load((Monitoring(paths).folder / "prometheus.yml").read_text())
    (tmp_path / "rules.yaml").write_text("groups: []\n")
    monkeypatch.setattr(monitoring, "RULES", tmp_path / "rules.yaml")
    made = Monitoring(paths)
    assert yaml.safe_load((made.folder / "prometheus.yml").read_text())["rule_files"] == ["rules.yaml"]
    assert (made.folder / "rules.yaml").read_text() == "groups: []\n"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (make monitoring-tools)")
def test_promtool_accepts_the_configuration(paths: RunPaths) -> None:
    made = Monitoring(paths)
    register_process(paths, "actor-0", "actor", 1001)
    made.update()
    done = subprocess.run(
        ["promtool", "check", "config", str(made.folder / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_address_is_believed_only_while_somebody_answers(paths: RunPaths) -> None:
    home = paths.root / monitoring.NAME
    home.mkdir()
    (home / "url").write_text("http://127.0.0.1:9")
    assert running_url(paths) is None
    forget_url(paths)
    forget_url(paths)
    assert not (home / "url").exists()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (make monitoring-tools)")
def test_data_that_cannot_be_read_are_no_data(paths: RunPaths, no_leaked_processes: None) -> None:
    home = paths.root / monitoring.NAME
    (home / "data" / "wal").mkdir(parents=True)
    (home / "data" / "wal" / "00000000").mkdir()  # where Prometheus expects a file
    assert replay(paths) is None
    assert (home / "replay.log").read_text()
