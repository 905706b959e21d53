"""kill -9 of each kind of process in a real run: who is replaced, what ends the run, and that nobody is orphaned."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.river_rig import events, left_over, metrics, pids, running, until

pytestmark = pytest.mark.timeout(600)
LONG = "learner.max_steps=100000"
DEADLINE_S = 300.0


def test_actor_and_evaluator_are_replaced_and_a_dead_learner_ends_the_run(tmp_path: Path) -> None:
    log = tmp_path / "launcher.log"
    with running(tmp_path, LONG) as (process, run):
        until(lambda: len(metrics(run)) >= 2, process, log, timeout_s=DEADLINE_S)
        before = pids(run)
        os.kill(before["evaluator-0"], signal.SIGKILL)
        os.kill(before["actor-0"], signal.SIGKILL)
        until(lambda: bool(events(run, "actor_restarted")), process, log, timeout_s=60)
        trained = len(metrics(run))
        # More steps than the groups that lay ready at the kill could feed: the new actor has weights and samples.
        until(lambda: len(metrics(run)) >= trained + 6, process, log, timeout_s=DEADLINE_S)
        after = pids(run)
        assert after["actor-0"] != before["actor-0"]
        assert after["evaluator-0"] != before["evaluator-0"]
        os.kill(after["learner"], signal.SIGKILL)
        assert process.wait(timeout=60) == 1
        assert not left_over(run)
    text = log.read_text()
    assert "learner" in text.splitlines()[-1] or "learner.log" in text, text[-1500:]


@pytest.mark.parametrize("victim", ["launcher", "broker"])
def test_nobody_survives_the_launcher_or_the_broker(tmp_path: Path, victim: str) -> None:
    log = tmp_path / "launcher.log"
    with running(tmp_path, LONG) as (process, run):
        until(lambda: len(metrics(run)) >= 1, process, log, timeout_s=DEADLINE_S)
        os.kill(process.pid if victim == "launcher" else pids(run)["broker"], signal.SIGKILL)
        code = process.wait(timeout=60)
        assert code == (-signal.SIGKILL if victim == "launcher" else 1)
        deadline = time.monotonic() + 20
        while (left := left_over(run)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left
