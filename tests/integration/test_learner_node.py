"""A learner spread over two "pods": process trees with a run directory each, and nothing in common but sockets."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from common.config import dump_config
from common.keys import make_keys
from tests.integration.node_rig import Pod, free_port, pods
from tests.learner_rig import (
    River,
    broker_process,
    make_config,
    make_process,
    read_lines,
    tiny_model,
    wait_until,
    write_data,
)

pytestmark = pytest.mark.usefixtures("no_leaked_processes")
FAKE = "tests.integration.fake_ranks"


def write_config(folder: Path, **sections: Any) -> list[str]:
    """The configuration of both pods (model: tiny means the one in a pod's own directory), as arguments."""
    make_keys(folder / "keys")
    changes = {"security": {"keys": str(folder / "keys")}, "resume": "auto", **sections}
    dump_config(make_config("tiny", **changes), folder / "config.yaml")
    return ["--config", str(folder / "config.yaml"), "--exit-when-done"]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Starts:
    """Which ranks were started, by the port at which their generation meets."""

    def __init__(self, folder: Path, made: list[Pod]) -> None:
        self._file, self._pods = folder / "starts", made
        self._seen = 0

    def wait_for_next(self) -> None:
        """Until every pod's ranks meet at a port at which none met before, and at no other."""
        wait_until(self._complete, "a generation on all pods", 30)

    def _complete(self) -> bool:
        for pod in self._pods:
            assert pod.process is not None
            assert pod.process.poll() is None, pod.log
        lines = [line.split() for line in self._file.read_text().splitlines()] if self._file.exists() else []
        new = [(node, port) for node, port, _ in lines[self._seen :]]
        for port in {port for _, port in new}:
            if sorted(node for node, where in new if where == port) == ["0", "1"]:
                self._seen = len(lines)
                return True
        return False


def test_whatever_dies_all_ranks_start_again_together(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    arguments = write_config(tmp_path, learner={"ranks": 2})
    with pods(tmp_path, 2, arguments, FAKE, lambda number: [f"metrics.port={ports[number]}"]) as made:
        starts = Starts(tmp_path, made)
        starts.wait_for_next()
        wait_until(lambda: get(ports[1], "/readyz") == (200, "ok: ready\n"), "the rank's own answer")
        assert get(ports[1], "/livez") == (200, "ok: loop: pretending on node 1\n")
        assert "zeroq_process_ready 1.0" in get(ports[1], "/metrics")[1]

        made[1].tree()[1].kill()  # one rank
        starts.wait_for_next()
        made[1].kill()  # a machine
        made[1].start()
        starts.wait_for_next()
        made[0].kill()  # the one that holds the gang
        made[0].start()
        starts.wait_for_next()

        assert made[1].terminate() == 0  # a drained machine: all ranks leave in good order
        wait_until(lambda: get(ports[0], "/readyz")[1].startswith("idle: waiting for node 1"), "the gang waits")
        assert get(ports[0], "/livez")[0] == 200
        made[1].start()
        starts.wait_for_next()

        (tmp_path / "finish").touch()
        for pod in made:
            assert pod.process is not None
            assert pod.process.wait(30) == 0, pod.log
        assert "training is finished" in made[1].log


def test_what_is_wrong_ends_the_node_with_one_line(tmp_path: Path) -> None:
    arguments = write_config(tmp_path, learner={"ranks": 2})
    make_keys(tmp_path / "other-keys")

    def more(number: int) -> list[str]:
        return [f"security.keys={tmp_path / 'other-keys'}"] if number else []

    with pods(tmp_path, 2, arguments, FAKE, more) as made:
        stranger = made[1]
        assert stranger.process is not None
        assert stranger.process.wait(30) == 2
        assert (
            "the other side breaks off every handshake" in stranger.log
            or "does not let this learner in" in stranger.log
        )
        assert stranger.log.count("error: ") == 1
        (tmp_path / "refuse").touch()
        stranger.command[-1] = f"security.keys={tmp_path / 'keys'}"
        stranger.start()
        for pod in made:
            assert pod.process is not None
        ended = {pod.number: pod.process.wait(30) for pod in made if pod.process is not None}
        assert set(ended.values()) == {2}, made[0].log
        assert "error: the ranks of node 0 find their input wrong" in made[0].log


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--nodes", "2", "--rank", "2"], "--rank=2 --nodes=2: ranks of nodes count from 0 to 1"),
        (
            ["--nodes", "3", "--rank", "0"],
            "learner.ranks=2 cannot be shared out evenly to --nodes=3; make it a multiple",
        ),
        (["--nodes", "2", "--rank", "0", "--rendezvous", "here"], "--rendezvous=here: expected HOST:PORT"),
        (["--nodes", "2", "--rank", "0", "security.keys=null"], "security.keys: nodes on several machines need"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(
    tmp_path: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from learner.node import main

    config = write_config(tmp_path, learner={"ranks": 2})
    common = ["--run-dir", str(tmp_path / "run"), "--check", "--rendezvous", "127.0.0.1:7620", *config]
    assert main([*common, "--nodes", "2", "--rank", "1"]) == 0
    capsys.readouterr()
    assert main([*common, *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def steps(pod: Pod) -> list[int]:
    path = pod.root / "metrics.jsonl"
    return [line["step"] for line in read_lines(path)] if path.exists() else []


def test_a_rank_is_killed_and_training_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    roles = ("learner", "actor", "evaluator", "monitor")
    arguments = write_config(
        tmp_path,
        learner={"ranks": 2, "max_steps": 5, "checkpoint_every_steps": 2, "num_threads": 1, "loss": {"kl_coef": 0.1}},
        cold_start={"steps": 2, "batch_size": 3, "lr": 1e-3, "warmup_steps": 0},
        broker={"address": "127.0.0.1", "ports": {role: free_port() for role in roles}},
        eval={"before_and_after": False},
    )
    broker_paths = make_process(tmp_path / "broker", make_config("tiny")).paths
    (tmp_path / "pod-0").mkdir()
    tiny_model(tmp_path / "pod-0" / "model")
    write_data(tmp_path / "pod-0")
    broker_paths.config.write_text((tmp_path / "config.yaml").read_text())
    with broker_process(broker_paths.root), pods(tmp_path, 2, arguments) as made, River(broker_paths, delay_s=0.2):
        wait_until(lambda: len(steps(made[0])) >= 3 or _ended(made), "three steps", 120)
        assert not _ended(made), made[0].log[-3000:] + made[1].log[-3000:]
        made[1].ranks()[0].kill()
        for pod in made:
            assert pod.process is not None
            assert pod.process.wait(120) == 0, pod.log[-3000:]
    done = steps(made[0])
    assert done[:3] == [1, 2, 3]
    assert done[-1] == 5
    assert 3 in done[3:], f"no step was done again, so nothing was killed: {done}"
    state = json.loads((made[0].root / "checkpoints" / "step-5" / "trainer" / "state.json").read_text())
    assert (state["step"], state["cursor"], state["outstanding"]) == (5, 10, [])
    rows = pq.read_table(made[0].root / "samples").to_pylist()
    assert Counter(row["step"] for row in rows) == dict.fromkeys(range(1, 6), 8)  # two groups of four, once each
    prompts = Counter(row["prompt"] for row in rows)  # ten groups on six problems: each once an epoch
    assert sorted(prompts.values()) == [4, 4, 8, 8, 8, 8]
    assert not (made[1].root / "checkpoints").exists()
    assert not (made[1].root / "data").exists()


def _ended(made: list[Pod]) -> bool:
    return any(pod.process is None or pod.process.poll() is not None for pod in made)
