"""Ten times the grading work: evaluators 1 -> 4 -> 1, real processes, the autoscaler of `zeroq run`, no lease lost."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from common import messages as m
from common.client import BrokerClient
from common.config import RunConfig, dump_config
from common.keys import Keys
from common.lifecycle import RunPaths, wait_for_endpoint
from common.wire import Envelope
from launcher.autoscaler.local import RunScaler
from launcher.monitor import RunMonitor
from launcher.pool import Pool
from launcher.processes import broker_spec, evaluator_spec
from tests.integration.river_rig import events

pytestmark = pytest.mark.usefixtures("no_leaked_processes")

LIGHT_S, HEAVY_S = 0.03, 0.3
MAX_EVALUATORS = 4
OUTSTANDING = 24


def make_config() -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": "none",
            "data": {"train": "none.jsonl"},
            "rollout": {"group_size": 2},
            "evaluator": {"max_concurrent_groups": 2},
            "broker": {"grade_lease_s": 20.0},
            "reward": {
                "components": [
                    {
                        "name": "slow",
                        "kind": "function",
                        "function": "tests.integration.slow_reward:as_long_as_it_says",
                    }
                ]
            },
            "autoscaler": {
                "enabled": True,
                "every_s": 0.25,
                "grading_target_s": 0.5,
                "drain_s": 10.0,
                "evaluators": {
                    "max": MAX_EVALUATORS,
                    "scale_up_after_s": 0.5,
                    "scale_down_after_s": 1.5,
                    "max_step": 3,
                },
            },
        }
    )


class River:
    """Broker and evaluators as processes under an autoscaler; learner and actor are played here."""

    def __init__(self, paths: RunPaths, stack: ExitStack) -> None:
        config = make_config()
        dump_config(config, paths.config)
        self.paths = paths
        self.pool = stack.enter_context(Pool(paths, lambda *_, **__: None))
        self.pool.start([broker_spec(paths), evaluator_spec(config, paths, 0)])
        self.monitor = stack.enter_context(RunMonitor(paths, config))
        self.scaler = RunScaler(config, paths, self.pool, self.monitor)
        self.learner, self.actor = (stack.enter_context(self._client(config, role)) for role in ("learner", "actor"))
        self.graded: dict[str, int] = {}
        self.graders: set[str] = set()
        self.max_backlog = 0
        self._num = 0
        self._take: Future[Envelope] | None = None

    def _client(self, config: RunConfig, role: m.Role) -> BrokerClient:
        fields = {"vocab_size": 9, "version": 0} if role == "learner" else {}
        keys = Keys.for_process(config, self.paths, role)  # type: ignore[arg-type]
        client = BrokerClient(wait_for_endpoint(self.paths, role), role, role, keys=keys, **fields)  # type: ignore[arg-type]
        client.hello()
        return client

    @property
    def outstanding(self) -> int:
        return self._num - len(self.graded)

    @property
    def evaluators(self) -> int:
        return sum(child.leave_by is None for child in self.pool.children.values()) - 1  # without the broker

    def add(self, seconds: float) -> None:
        """One group that takes so long to grade."""
        name = f"t{self._num}"
        self._num += 1
        text = str(seconds).encode()
        task = m.AddTask(task_id=name, purpose="eval", group_size=2, sampling=m.Sampling(max_tokens=4))
        ids = np.array([1], np.int32)
        self.learner.request(task, {"prompt_ids": ids, "prompt": b"?", "spec": b'{"kind":"math","answer":"1"}'})
        lease = self.actor.request(m.LeaseWork(kind="generate", wait_s=5.0, version=0)).header
        assert isinstance(lease, m.Lease), lease
        rollouts = [m.RolloutMeta(num_tokens=1, text_bytes=len(text), finish_reason="stop")] * 2
        header = m.SubmitGroup(lease_id=lease.lease_id, token=lease.token, task_id=lease.task_id, rollouts=rollouts)
        two = np.zeros(2, np.int32)
        logprobs = np.full(2, -1.0, np.float32)
        frames = {"token_ids": two, "logprobs": logprobs, "versions": two, "texts": text * 2}
        assert isinstance(self.actor.request(header, frames).header, m.Ack)

    def turn(self, feed_s: float | None = None) -> None:
        """What the launcher's loop does, and what the learner does; keeps OUTSTANDING groups of `feed_s` in work."""
        while feed_s is not None and self.outstanding < OUTSTANDING:
            self.add(feed_s)
        self.pool.poll()
        view = self.monitor.poll()
        self.scaler.step(time.monotonic(), self.monitor)
        if view.status is not None:
            self.max_backlog = max(self.max_backlog, view.status["queues"]["grade"])
            self.graders |= {p["name"] for p in view.status["peers"] if p["role"] == "evaluator" and p["leases"]}
        if self._take is not None and self._take.done():
            group = self._take.result().header
            self._take = None
            if isinstance(group, m.Group):
                self.graded[group.task_id] = self.graded.get(group.task_id, 0) + 1
                assert [verdict.reward for verdict in group.verdicts] == [1.0, 1.0]
                self.learner.call(m.Release(task_ids=[group.task_id], outcome="trained"))
        if self._take is None:
            self._take = self.learner.call(m.Take(purpose="eval", wait_s=1.0))
        time.sleep(0.01)

    def until(self, condition: Callable[[], bool], what: str, feed_s: float | None = None) -> float:
        """Turn until `condition` holds; how long it took, seconds."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < 90, f"not within 90 s: {what}; {self.monitor.view.status}"
            self.turn(feed_s)
        return time.monotonic() - begin

    def metric(self, sample: str) -> float:
        """From the broker's exporter; 0 when it is not there."""
        port = json.loads((self.paths.processes / "broker.json").read_text())["metrics_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(sample))


@contextmanager
def river(tmp_path: Path) -> Iterator[River]:
    with ExitStack() as stack:
        yield River(RunPaths(tmp_path), stack)


def test_ten_times_the_work_scales_evaluators_up_and_down_without_a_lost_lease(tmp_path: Path) -> None:
    with river(tmp_path) as r:
        r.until(lambda: len(r.graded) >= 20, "light work is graded", feed_s=LIGHT_S)
        light = len(r.graded)
        up_s = r.until(lambda: len(r.graders) == MAX_EVALUATORS, "all evaluators at work", feed_s=HEAVY_S)
        assert r.evaluators == MAX_EVALUATORS
        heavy = len(r.graded) - light
        off_s = r.until(lambda: r.outstanding == 0, "the backlog is worked off")
        down_s = r.until(lambda: len(r.pool.children) == 2, "one evaluator is left")
        print(
            f"\n10x grading work: {up_s:.1f} s until {MAX_EVALUATORS} evaluators graded ({heavy} groups meanwhile), "
            f"backlog at most {r.max_backlog}, worked off in {off_s:.1f} s, back to 1 evaluator {down_s:.1f} s later"
        )
        assert set(r.graded.values()) == {1}  # every group once
        status = r.learner.request(m.GetStatus()).header
        assert isinstance(status, m.StatusReport)
        counters = status.status["counters"]
        assert counters["groups_generated"] == counters["groups_graded"] == len(r.graded)
        assert (counters["leases_expired"], counters["attempts_failed"], counters["leases_cancelled"]) == (0, 0, 0)
        # drained before they were stopped: not even a lease that was given back
        assert r.metric('zeroq_broker_leases_ended_total{kind="grade",outcome="submitted"}') == len(r.graded)
        assert r.metric('zeroq_broker_leases_ended_total{kind="grade",outcome="returned"}') == 0
        assert sorted(file.stem for file in r.paths.processes.iterdir()) == ["broker", "evaluator-0"]
    changes = [(event["before"], event["after"]) for event in events(tmp_path, "autoscaled")]
    assert changes[0][0] == 1
    assert max(after for _, after in changes) == MAX_EVALUATORS
    assert changes[-1][1] == 1
