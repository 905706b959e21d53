"""Draining: the signal, what it does to actor and evaluator, and the hook that waits for the last group."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from test_actor_loop import FakeBroker, FakeEngine, FakeWeights
from test_evaluator_loop import lease

from actor import loop as actor_loop
from actor.loop import Actor
from common import drain
from common.lifecycle import StopFlag
from common.messages import Ack, Header, LeaseWork, NoWork, ReturnLease, SubmitGroup, Verdict
from common.pages import Page, PageServer
from common.wire import Envelope
from evaluator import loop as evaluator_loop
from evaluator.loop import Desk, Health

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 10.0


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_signal_asks_for_less_than_a_stop() -> None:
    with handlers_kept():
        stop = StopFlag().install()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.draining
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)  # the first of its kind: it does not end the process
        assert stop


def test_a_closed_terminal_is_a_stop_and_never_the_second_one() -> None:
    with handlers_kept():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        stop = StopFlag().install()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)  # shell and kernel
        assert stop
    with handlers_kept():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        stop = StopFlag().install()
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop


def test_a_stop_is_a_drain_too() -> None:
    stop = StopFlag()
    assert not stop.draining
    stop.set()
    assert stop.draining


def test_an_actor_finishes_what_it_has_and_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_loop, "_POLL_S", 0.02)
    monkeypatch.setattr(actor_loop, "_STOP_CHECK_S", 0.005)

    async def until(what: Any) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not what():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)

    async def story() -> FakeBroker:
        broker, engine, weights, stop = FakeBroker(3, deadline_s=30.0), FakeEngine(), FakeWeights(), StopFlag()
        actor = Actor(broker, engine, weights, stop, name="a", max_groups=2)
        running = asyncio.create_task(actor.run())
        await until(lambda: len(engine.calls) == 2)
        stop.drain()
        asked = len(broker.of(LeaseWork))
        engine.go.set()
        await until(lambda: len(broker.of(SubmitGroup)) == 2)
        await asyncio.sleep(0.1)  # time enough to ask for the third, if it did
        assert len(broker.of(LeaseWork)) == asked
        assert not running.done()
        stop.set()
        await asyncio.wait_for(running, DEADLINE_S)
        return broker

    broker = asyncio.run(story())
    assert len(broker.leases) == 1
    assert not broker.of(ReturnLease)


class FakeBrokerClient:
    """Grants one lease for each request."""

    def __init__(self, on_call: Any) -> None:
        self.asked: list[Header] = []
        self._on_call = on_call

    def call(self, header: Header) -> Future[Envelope]:
        self.asked.append(header)
        self._on_call(header)
        reply: Future[Envelope] = Future()
        frames = {"prompt": b"P", "texts": b"abcde", "spec": b'{"kind": "none"}'}
        granted = isinstance(header, LeaseWork) and len(self.asked) == 1
        reply.set_result(Envelope(lease(), frames) if granted else Envelope(self._other(header), {}))
        return reply

    @staticmethod
    def _other(header: Header) -> Header:
        return NoWork() if isinstance(header, LeaseWork) else Ack()


class FakeGraders:
    def grade(self, *_: object) -> list[Any]:
        return [Verdict(outcome="pass", reward=1.0, rewards={}) for _ in range(2)]


def test_an_evaluator_finishes_what_it_has_and_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator_loop, "TICK_S", 0.005)
    stop, beats = StopFlag(), []
    client = FakeBrokerClient(lambda header: stop.drain())  # while the first request for work is under way

    def beat(doing: str, limit_s: float) -> None:
        beats.append(doing)
        if beats.count("draining") == 5:
            stop.set()

    desk = Desk(client, FakeGraders(), stop, Health(), beat=beat)  # type: ignore[arg-type]
    working = threading.Thread(target=desk.work)
    working.start()
    working.join(DEADLINE_S)
    assert not working.is_alive()
    assert [type(header).__name__ for header in client.asked] == ["LeaseWork", "SubmitVerdicts"]
    assert beats.count("draining") >= 5  # it is alive, and says so


def answers(*counts: int | None) -> Iterator[int | None]:
    return itertools.chain(counts, itertools.repeat(counts[-1]))


def test_the_hook_waits_for_the_last_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_EVERY_S", 0.001)
    monkeypatch.setattr(drain, "_QUIET_S", 0.02)
    seen = answers(2, 1, 0, 1, 0)
    assert drain.wait_until_idle(lambda: next(seen), 30.0).startswith("nothing in hand after")
    assert next(seen) == 0  # not at the first 0: a lease came after it


def test_the_hook_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_EVERY_S", 0.001)
    assert drain.wait_until_idle(lambda: 3, 0.02) == "3 groups in hand after 0 s; they go back"


def test_the_hook_ends_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drain.wait_until_idle(lambda: None, 30.0) == "the process is gone"


def test_groups_are_read_from_the_metrics_page() -> None:
    text = (
        "# TYPE zeroq_actor_groups_running gauge\nzeroq_actor_groups_running 3.0\n"
        'zeroq_actor_groups_total{outcome="lost"} 9.0\nzeroq_evaluator_groups_running 1.0\n'
    )
    server = PageServer("127.0.0.1", 0, lambda path, _: Page(text.encode()) if path == "/metrics" else None)
    url = f"http://127.0.0.1:{server.port}/metrics"
    try:
        assert drain.groups_running(url) == 4
    finally:
        server.close()
    assert drain.groups_running(url) is None


@pytest.mark.parametrize("module", ["actor.metrics", "evaluator.metrics"])
def test_the_metrics_have_the_name_that_the_hook_looks_for(module: str) -> None:
    code = (
        f"import {module}; from common.metrics import REGISTRY; from prometheus_client import generate_latest; "
        "from common.drain import _RUNNING; print(_RUNNING.findall(generate_latest(REGISTRY).decode()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['0.0']"


def test_the_command_signals_and_waits() -> None:
    """Against a process that takes no more groups once it has the signal."""
    program = (
        "import signal, sys\nfrom common.pages import Page, PageServer\nleft = [4]\n"
        "def answer(path, headers):\n    n = left[0]\n    if drained and n:\n        left[0] -= 1\n"
        "    return Page(f'zeroq_actor_groups_running {n}.0\\n'.encode())\n"
        "drained = []\nsignal.signal(signal.SIGUSR1, lambda *_: drained.append(1))\n"
        "server = PageServer('127.0.0.1', 0, answer)\nprint(server.port, flush=True)\n"
        "sys.stdin.read()\nserver.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        command = [sys.executable, "-m", "common.drain", "--within=30", f"--port={port}", f"--pid={process.pid}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        process.communicate("", timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("drain: nothing in hand after")


def test_a_process_that_is_gone_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert drain.main(["--within=1", f"--pid={process.pid}"]) == 0
    assert "No such process" in capsys.readouterr().err


def test_a_draining_process_says_that_it_is_not_ready(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model: tiny\ndata: {train: {reasoning_gym: chain_sum}}\nsecurity: {mode: 'off'}\n")
    command = [sys.executable, "-m", "broker", "--run-dir", str(tmp_path / "run"), "--config", str(config)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            record = tmp_path / "run" / "processes" / "broker.json"
            wait_for(record.exists)
            page = f"http://127.0.0.1:{json.loads(record.read_text())['metrics_port']}"
            wait_for(lambda: status(f"{page}/readyz") == 200)
            process.send_signal(signal.SIGUSR1)
            wait_for(lambda: status(f"{page}/readyz") == 503)
            assert status(f"{page}/livez") == 200
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) == 0


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3 * DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_is_slow_to_answer_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cores are busy with its last groups; the hook must not let it be stopped for that."""
    monkeypatch.setattr(drain, "_ASK_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and does not answer
        assert drain.groups_running(f"http://127.0.0.1:{server.getsockname()[1]}/metrics") == drain.UNKNOWN
    garbled = PageServer("127.0.0.1", 0, lambda path, _: Page(b"zeroq_actor_groups_running none\n"))
    try:
        assert drain.groups_running(f"http://127.0.0.1:{garbled.port}/metrics") == drain.UNKNOWN
    finally:
        garbled.close()
    monkeypatch.setattr(drain, "_EVERY_S", 0.001)
    monkeypatch.setattr(drain, "_QUIET_S", 0.02)
    seen = answers(2, drain.UNKNOWN, 0)
    assert drain.wait_until_idle(lambda: next(seen), 30.0).startswith("nothing in hand after")
    assert "nobody knows" in drain.wait_until_idle(lambda: drain.UNKNOWN, 0.02)
