"""Probes: what /livez and /readyz answer, and who is listened to."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from actor.vitals import Vitals
from broker.server import run as serve
from common import introduction
from common.cli import Process
from common.errors import BrokerUnavailable, RunFailure, UserError
from common.health import Health
from common.introduction import introduce
from common.lifecycle import StopFlag
from common.messages import Lease, NoWork, Welcome
from common.metrics import REGISTRY, start_exporter
from common.pages import PageServer
from common.wire import Envelope
from evaluator.lease import LeaseKeeper
from evaluator.loop import Desk
from evaluator.loop import Health as Failures
from learner.ranks import Ranks
from tests.learner_rig import make_config, make_process, wait_until


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_silent_part_is_named_after_its_own_limit() -> None:
    clock = Clock()
    health = Health(clock=clock)
    assert health.why_not_alive() is None  # nothing has begun yet
    health.beat("loop", "loading the model", 600)
    health.beat("desk-1", "grading", 30)
    clock.now += 30
    assert health.why_not_alive() is None
    clock.now += 1
    assert health.why_not_alive() == "desk-1: grading for 31 s without progress (limit 30 s)"
    assert health.seconds_since_progress() == 31
    health.finish("desk-1")
    assert health.why_not_alive() is None
    health.beat("loop", "training", 60)
    clock.now += 61
    assert health.why_not_alive() == "loop: training for 61 s without progress (limit 60 s)"


def test_ready_is_asked_for_and_ends_with_a_stop() -> None:
    stopping, trouble = False, "the broker does not answer"
    health = Health(stopping=lambda: stopping)
    assert health.why_not_ready() == "starting"
    health.ready(lambda: trouble or None)
    assert health.why_not_ready() == "the broker does not answer"
    trouble = ""
    assert health.why_not_ready() is None
    health.not_ready("waiting for weights")
    assert health.why_not_ready() == "waiting for weights"
    health.ready()
    stopping = True
    assert health.why_not_ready() == "stopping"


def test_the_exporter_serves_metrics_and_probes() -> None:
    clock = Clock()
    health = Health(clock=clock)
    server = start_exporter("127.0.0.1", 0, health)
    try:
        assert get(server.port, "/livez") == (200, "ok: starting\n")
        assert get(server.port, "/readyz") == (503, "starting\n")
        health.beat("loop", "serving", 5)
        health.ready()
        clock.now += 2
        assert get(server.port, "/livez") == (200, "ok: loop: serving\n")
        assert get(server.port, "/readyz") == (200, "ok: ready\n")
        status, metrics = get(server.port, "/metrics?name[]=x")
        assert status == 200
        assert "zeroq_process_ready 1.0" in metrics
        assert "zeroq_process_seconds_since_progress 2.0" in metrics
        clock.now += 4
        assert get(server.port, "/livez") == (503, "loop: serving for 6 s without progress (limit 5 s)\n")
        assert get(server.port, "/other")[0] == 404
    finally:
        server.close()
    assert REGISTRY.get_sample_value("zeroq_process_ready") == 1.0


def test_a_loop_that_holds_its_thread_is_found_out() -> None:
    health, release = Health(), threading.Event()
    server = start_exporter("127.0.0.1", 0, health)
    health.beat("loop", "stuck", 0.0)
    thread = threading.Thread(target=release.wait, args=(5,))
    thread.start()
    try:
        assert get(server.port, "/livez")[0] == 503
    finally:
        release.set()
        thread.join()
        server.close()


def test_an_address_that_cannot_be_bound_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"metrics\.port={port}: the port is in use"):
            PageServer("127.0.0.1", port, lambda path, headers: None)
    with pytest.raises(UserError, match=r"metrics\.host=192\.0\.2\.1: cannot bind there"):
        PageServer("192.0.2.1", 0, lambda path, headers: None)


def test_a_client_that_says_nothing_does_not_keep_others_out() -> None:
    server = start_exporter("127.0.0.1", 0, Health())
    try:
        with socket.create_connection(("127.0.0.1", server.port)):
            assert get(server.port, "/livez")[0] == 200
    finally:
        server.close()


def test_clients_that_dawdle_use_up_neither_threads_nor_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.pages._MAX_CLIENTS", 4)
    server = start_exporter("127.0.0.1", 0, Health())
    slow = []
    try:
        for _ in range(20):
            slow.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            slow[-1].sendall(b"GET /livez HTTP/1.1\r\n")
        assert slow[0].recv(1) == b""  # cut off, long before its time is up
        assert get(server.port, "/livez")[0] == 200
        until = time.monotonic() + 5  # one that was cut off ends as soon as it gets a turn
        while (left := sum("process_request" in t.name for t in threading.enumerate())) > 5:
            assert time.monotonic() < until, left
            time.sleep(0.05)
    finally:
        for client in slow:
            client.close()
        server.close()


class FakeActor:
    """Engine, weights and worker in one."""

    num_running = 0
    tokens_generated = 0
    version: int | None = None
    refused_version: int | None = None


def test_an_actor_is_ready_with_current_weights_and_alive_while_tokens_come() -> None:
    clock, actor, trouble = Clock(), FakeActor(), [None]
    health = Health(clock=clock)
    config = make_config(
        "m",
        broker={"generate_lease_s": 40},
        weights={"ready_timeout_s": 10, "transfer_timeout_s": 20},
        learner={"collective_timeout_s": 90},
    )
    vitals = Vitals(health, config, actor, actor, actor, lambda: trouble[0])

    def look(seconds: float) -> str | None:
        for _ in range(int(seconds / 10)):
            clock.now += 10
            vitals.look()
        return health.why_not_alive()

    assert vitals.why_not_ready() == "no weights yet"
    actor.version = 3
    assert vitals.why_not_ready() is None
    actor.refused_version = 3
    assert vitals.why_not_ready() == "weights of version 3 are too old; waiting for newer ones"
    actor.version = 4
    assert vitals.why_not_ready() is None
    trouble[0] = "the broker does not answer"  # type: ignore[call-overload]
    assert vitals.why_not_ready() == "the broker does not answer"

    assert look(1000) is None  # idle
    actor.num_running = 5
    assert look(170) is None  # the first look, then a lease, two publishes and a spare minute
    assert look(10) == "engine: sampling 5 rollouts for 170 s without progress (limit 160 s)"
    actor.tokens_generated = 1
    assert look(10) is None
    clock.now += 61
    assert health.why_not_alive() == "events: serving for 61 s without progress (limit 60 s)"


class FakeClient:
    """Answers the `answer`-th hello; `on_hello` is called at each."""

    def __init__(self, answer: int, on_hello: Callable[[], None] = lambda: None) -> None:
        self.answer, self.on_hello, self.hellos = answer, on_hello, 0
        self.reason: str | None = None

    def hello(self, timeout_s: float) -> Welcome:
        self.hellos += 1
        self.on_hello()
        if self.hellos < self.answer:
            raise BrokerUnavailable("tcp://b:1: no reply")
        return Welcome(broker_incarnation="b", version=0)

    def trouble(self) -> str | None:
        return self.reason


def introduced(tmp_path: Path, client: FakeClient, **broker: Any) -> Process:
    process = make_process(tmp_path, make_config("m", broker=broker))
    introduce(process, client)  # type: ignore[arg-type]
    return process


def test_a_process_waits_for_the_broker_and_is_ready_while_it_answers(tmp_path: Path) -> None:
    client = FakeClient(3)
    process = introduced(tmp_path, client)
    assert client.hellos == 3
    assert process.health.why_not_ready() is None
    client.reason = "the broker does not answer"
    assert process.health.why_not_ready() == "the broker does not answer"


def test_patience_is_longer_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(introduction.time, "monotonic", clock)
    ports = {"learner": 1, "actor": 2, "evaluator": 3, "monitor": 4}

    def later() -> None:
        clock.now += 5

    with pytest.raises(RunFailure, match="waited 30 s for the broker: tcp://b:1: no reply"):
        introduced(tmp_path, FakeClient(100, later))
    assert introduced(tmp_path, FakeClient(100, later), address="b", ports=ports).health.why_not_ready() is None
    with pytest.raises(RunFailure, match="waited 900 s"):
        introduced(tmp_path, FakeClient(1000, later), address="b", ports=ports)


@pytest.mark.parametrize(("address", "give_up_s"), [(None, 60.0), ("127.0.0.1", 900.0)])
def test_a_worker_on_a_cluster_outlives_a_broker_that_moves_to_another_node(
    tmp_path: Path, address: str | None, give_up_s: float
) -> None:
    ports = {"learner": 1, "actor": 2, "evaluator": 3, "monitor": 4}
    config = make_config("m", broker={"address": address, "ports": ports if address else {}})
    process = make_process(tmp_path, config)
    process.paths.endpoints.write_text(json.dumps({"actor": "tcp://127.0.0.1:2"}))
    with introduction.connect(process, "actor", None) as client:
        assert client._give_up_s == give_up_s


def test_a_stop_ends_the_waiting(tmp_path: Path) -> None:
    process = make_process(tmp_path, make_config("m"))
    client = FakeClient(100, process.stop.set)
    with pytest.raises(RunFailure, match="waited"):
        introduce(process, client)  # type: ignore[arg-type]
    assert client.hellos == 1


def test_the_broker_beats_in_every_round_and_is_ready(tmp_path: Path) -> None:
    process = make_process(tmp_path, make_config("m", security={"mode": "off"}), "broker")
    beats: list[tuple[str, str, float]] = []
    process.health.beat = lambda *beat: beats.append(beat)  # type: ignore[method-assign]
    thread = threading.Thread(target=serve, args=(process,))
    thread.start()
    try:
        wait_until(lambda: len(beats) > 3, "beats")
        assert beats[-1] == ("broker", "serving", 30.0)
        assert process.health.why_not_ready() is None
    finally:
        process.stop.set()
        thread.join(10)


def test_a_learner_that_waits_is_alive_and_hears_a_stop() -> None:
    health = Health()
    with Ranks(make_config("m", learner={"collective_timeout_s": 600}).learner, health) as ranks:
        seen: list[str] = []

        def poll(seconds: float) -> bool:
            seen.append(health.doing())
            return len(seen) == 3

        assert ranks.wait_on_first(poll, lambda: False)
        assert seen == ["loop: waiting for groups or evaluations"] * 3
        assert not ranks.wait_on_first(lambda seconds: False, lambda: True)
        health.beat("loop", "before")
        ranks.beat("step 3, micro-batch 1 of 2")
        assert health.doing() == "loop: step 3, micro-batch 1 of 2"


def test_the_time_that_a_rank_may_be_silent_is_that_of_a_collective() -> None:
    clock = Clock()
    health = Health(clock=clock)
    with Ranks(make_config("m", learner={"collective_timeout_s": 600}).learner, health) as ranks:
        ranks.beat("summing up")
        clock.now += 630
        assert health.why_not_alive() is None
        clock.now += 1
        assert health.why_not_alive() == "loop: summing up for 631 s without progress (limit 630 s)"


def test_an_evaluators_desk_beats_while_it_waits_and_when_rollouts_are_graded() -> None:
    class Client:
        def call(self, header: Any) -> Future[Any]:
            future: Future[Any] = Future()
            threading.Timer(0.6, future.set_result, (Envelope(NoWork(), {}),)).start()
            return future

    stop, beats = StopFlag(), []

    def beat(doing: str, limit_s: float) -> None:
        beats.append((doing, limit_s))
        if len(beats) == 3:
            stop.set()

    Desk(Client(), None, stop, Failures(), beat=beat).work()  # type: ignore[arg-type]
    assert beats[:3] == [("waiting for the broker", 120.0)] * 3
    done: list[int] = []
    keeper = LeaseKeeper(Client(), a_lease(), on_progress=lambda: done.append(1))  # type: ignore[arg-type]
    for progress in (0, 0, 1, 1, 3):
        keeper.tick(progress)
    assert len(done) == 3  # the start, and each time more was done: not when nothing was


def a_lease() -> Lease:
    return Lease(
        lease_id="l", token=1, kind="grade", task_id="t", purpose="train", attempt=0, group_size=1, deadline_s=60.0
    )
