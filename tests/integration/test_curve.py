"""The wire's security with real sockets: who is let in, who is not, what is counted, what a refused process says."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from actor.weights import WeightReceiver
from actor.weights import receiver as receiver_module
from broker.server import Server
from common import messages as m
from common.client import BrokerClient
from common.config import RunConfig, dump_config
from common.curve import Cause, Dialler, Gate
from common.errors import NotLetIn, UserError
from common.keys import LETS_IN, KeyRole, Keys, make_keys
from common.lifecycle import StopFlag
from common.wire import decode, encode
from learner.weights import WeightPublisher
from learner.weights.control import AUTH_FAILURES
from tests.integration.weights_fakes import FakeLLM, weights_config

pytestmark = pytest.mark.usefixtures("no_leaked_processes")
ROOT = Path(__file__).parents[2]
ROLES: tuple[m.Role, ...] = ("learner", "actor", "evaluator", "monitor")


def configuration(**broker: Any) -> RunConfig:
    return RunConfig.model_validate({"model": "tiny", "data": {"train": "x"}, "broker": broker})


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Poll `condition` until it holds; AssertionError naming `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


class Broker:
    """The broker's server in a thread."""

    def __init__(self, keys: Keys | None, **broker: Any) -> None:
        self.server = Server(configuration(**broker), keys)
        self._stop = StopFlag()
        self._thread = threading.Thread(target=self.server.serve, args=[self._stop])
        self._thread.start()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.server.close()

    def failures(self) -> dict[tuple[str, str], int]:
        """What has been counted so far."""
        return {key: count for key, count in self.server.auth_failures.items() if count}

    def wait_for_failure(self, role: m.Role, cause: Cause) -> None:
        wait_until(lambda: self.server.auth_failures[role, cause], f"{cause} counted")

    def client(self, role: m.Role, keys: Keys | None, **options: Any) -> BrokerClient:
        return BrokerClient(self.server.endpoints[role], role, "test", keys=keys, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve") / "keys"
    make_keys(folder)
    return folder


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of another zeroq keygen."""
    folder = tmp_path_factory.mktemp("strangers") / "keys"
    make_keys(folder)
    return folder


@pytest.fixture
def broker(folder: Path) -> Iterator[Broker]:
    threads = threading.active_count()
    with Broker(Keys.load(folder, "broker")) as broker:
        yield broker
    wait_until(lambda: threading.active_count() <= threads, "no thread left behind")


def stranger(strangers: Path, folder: Path, role: KeyRole) -> Keys:
    """A key pair that the broker does not know, of somebody who knows the broker's public key."""
    return dataclasses.replace(Keys.load(strangers, role), peers=Keys.load(folder, role).peers)


@contextlib.contextmanager
def raw_client(endpoint: str, server: KeyRole, keys: Keys) -> Iterator[zmq.Socket[bytes]]:
    """A connected socket with a process's keys and nothing else of it."""
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    dialler = Dialler(endpoint, server, keys, client=keys.role)
    dialler.attach(raw)
    raw.connect(endpoint)
    try:
        yield raw
    finally:
        dialler.detach()
        raw.close(0)


# ------------------------------------------------------------------ the broker's sockets


def test_every_role_is_let_in_with_its_own_key(broker: Broker, folder: Path) -> None:
    for role in ROLES:
        with broker.client(role, Keys.load(folder, role)) as client:
            assert client.hello(timeout_s=10).version == 0
    assert not broker.failures()


@pytest.mark.parametrize("role", ROLES)
def test_a_key_opens_the_socket_of_its_role_only(broker: Broker, folder: Path, role: m.Role) -> None:
    keys = Keys.load(folder, role)
    others = [other for other in ROLES if other != role]
    for other in others:
        with broker.client(other, keys) as client, pytest.raises(UserError) as raised:
            client.hello(timeout_s=10)
        assert str(raised.value) == (
            f"{broker.server.endpoints[other]}: the broker does not let this {other} in with {folder}/{role}.secret; "
            "give both sides the files of one zeroq keygen"
        )
    assert broker.failures() == {(other, "wrong_role"): 1 for other in others}
    assert not list(broker.server.state.core.peers.recent())


def test_an_unknown_key_is_refused(
    broker: Broker, folder: Path, strangers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = rf"does not let this actor in with {re.escape(str(strangers))}/actor\.secret"
    with (
        broker.client("actor", stranger(strangers, folder, "actor")) as client,
        pytest.raises(UserError, match=words),
    ):
        client.hello(timeout_s=10)
    assert broker.failures() == {("actor", "wrong_key"): 1}
    assert "a connection from 127.0.0.1 to the actor socket was refused: wrong_key" in caplog.text


def test_whoever_has_another_key_of_the_broker_is_told_before_its_patience_ends(
    broker: Broker, strangers: Path
) -> None:
    """libzmq tells such a client nothing, and lets it try for ever."""
    words = r"breaks off every handshake with this actor: .*broker\.public is not its key"
    with broker.client("actor", Keys.load(strangers, "actor")) as client, pytest.raises(UserError, match=words):
        client.hello(timeout_s=2)
    assert broker.failures().keys() == {("actor", "wrong_key")}


def test_plaintext_is_refused(broker: Broker) -> None:
    with broker.client("actor", None) as client:
        for _ in range(5):  # whichever side hangs up first, the client's word is the same; the cause may be no_key then
            with pytest.raises(UserError, match="the broker there wants keys, and this actor has none"):
                client.hello(timeout_s=10)
            if broker.failures().get(("actor", "plaintext")):
                break
    broker.wait_for_failure("actor", "plaintext")
    assert not list(broker.server.state.core.peers.recent())


def test_keys_are_not_shown_to_a_broker_without(folder: Path) -> None:
    with Broker(None) as broker, broker.client("actor", Keys.load(folder, "actor")) as client:
        with pytest.raises(UserError, match="is no broker with keys, and this actor talks to no other"):
            client.hello(timeout_s=10)
        assert not list(broker.server.state.core.peers.recent())


def test_connections_that_show_no_key_are_counted_and_noise_does_no_harm(broker: Broker, folder: Path) -> None:
    port = int(broker.server.endpoints["actor"].rpartition(":")[2])
    for noise in (b"", os.urandom(500), b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f\x03"):
        with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as raw:
            raw.sendall(noise)
    broker.wait_for_failure("actor", "no_key")
    with broker.client("actor", Keys.load(folder, "actor")) as client:
        client.hello(timeout_s=10)


@pytest.mark.parametrize(("role", "cut_off"), [("evaluator", True), ("monitor", True), ("actor", False)])
def test_strangers_cannot_make_the_broker_hold_more_than_a_header(broker: Broker, role: m.Role, cut_off: bool) -> None:
    """libzmq reads a frame of the handshake up to the socket's bound before it knows whose it is."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(15 + 32)
    port = int(broker.server.endpoints[role].rpartition(":")[2])
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as raw:
        raw.sendall(greeting)
        received = 0
        while received < 64:
            received += len(raw.recv(64 - received))
        raw.sendall(b"\x06" + (1 << 20).to_bytes(8, "big"))  # a command of 1 MiB is on its way
        raw.settimeout(10 if cut_off else 0.5)
        if cut_off:
            with contextlib.suppress(ConnectionResetError):
                assert raw.recv(1) == b""
        else:
            with pytest.raises(TimeoutError):
                raw.recv(1)


def test_an_evaluators_key_does_an_evaluators_work_only(broker: Broker, folder: Path) -> None:
    """On the one socket that it opens, nothing of the others' is heard."""
    rollout = m.RolloutMeta(num_tokens=1, text_bytes=0, finish_reason="stop")
    with broker.client("evaluator", Keys.load(folder, "evaluator")) as client:
        client.hello(timeout_s=10)
        for header in (
            m.SubmitGroup(lease_id="x", token=1, task_id="t", rollouts=[rollout]),
            m.AddTask(task_id="t", purpose="train", group_size=1, sampling=m.Sampling(max_tokens=1)),
            m.Take(purpose="train"),
            m.Release(task_ids=["t"], outcome="trained"),
            m.Publish(version=1),
            m.LeaseWork(kind="generate", version=0),
            m.GetStatus(),
            m.Join(name="e", incarnation="e"),
            m.Hello(role="actor", name="e", incarnation="e"),
        ):
            reply = client.request(header, timeout_s=10).header
            assert isinstance(reply, m.Refused), header
            assert reply.code == "wrong_role", header
    assert broker.server.state.status(time.monotonic())["outstanding_train"] == 0


def test_failures_are_exported(broker: Broker, folder: Path) -> None:
    with broker.client("learner", Keys.load(folder, "evaluator")) as client, pytest.raises(UserError):
        client.hello(timeout_s=10)

    def exported() -> dict[tuple[str, str], float]:
        return {
            (sample.labels["socket"], sample.labels["cause"]): sample.value
            for family in broker.server.collector.collect()
            for sample in family.samples
            if sample.name == "zeroq_broker_auth_failures_total"
        }

    wait_until(lambda: exported().get(("learner", "wrong_role")) == 1, "the failure in the metrics")
    assert len(exported()) == 16
    assert sum(exported().values()) == 1


# ------------------------------------------------------------------ what holds when a guard is missing


def test_a_message_must_come_over_a_connection_of_its_role(
    broker: Broker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the allow-list let in, a message's User-Id has to be the role of its socket."""
    monkeypatch.setattr(Gate, "_answer", lambda self, request: [*request[:2], b"200", b"OK", b"evaluator", b""])
    with broker.client("actor", Keys.load(folder, "evaluator")) as client:
        pending = client.call(m.Hello(role="actor", name="x", incarnation="x"))
        broker.wait_for_failure("actor", "wrong_role")
        assert not pending.done()
    assert not list(broker.server.state.core.peers.recent())


def test_nobody_is_let_in_when_nobody_looks_at_keys(folder: Path) -> None:
    """libzmq's own rule is the opposite: without a ZAP handler everybody may come in."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    gate = Gate(context, Keys.load(folder, "broker"), lambda name, cause: None)
    try:
        server = context.socket(zmq.ROUTER)
        gate.guard(server, "actor", "actor")
        server.bind("tcp://127.0.0.1:*")
        gate.close()
        with raw_client(server.getsockopt_string(zmq.LAST_ENDPOINT), "broker", Keys.load(folder, "actor")) as client:
            client.send(b"hello")
            assert not server.poll(500)
    finally:
        gate.close()
        context.destroy(0)


def test_handshakes_that_never_end_do_not_keep_the_broker_from_ending(folder: Path, strangers: Path) -> None:
    with Broker(Keys.load(folder, "broker")) as broker:
        clients = [broker.client("actor", Keys.load(strangers, "actor")) for _ in range(5)]
        broker.wait_for_failure("actor", "wrong_key")
        began = time.monotonic()
    assert time.monotonic() - began < 3
    for client in clients:
        client.close()


# ------------------------------------------------------------------ over time


def test_a_broker_that_comes_back_with_its_keys_is_found_again(folder: Path) -> None:
    keys = Keys.load(folder, "actor")
    with Broker(Keys.load(folder, "broker")) as first, contextlib.ExitStack() as stack:
        port = int(first.server.endpoints["actor"].rpartition(":")[2])
        client = stack.enter_context(first.client("actor", keys, resend_s=0.5))
        before = client.hello(timeout_s=10).broker_incarnation
        kept = stack.pop_all()
    with kept, Broker(Keys.load(folder, "broker"), ports={"actor": port}):
        assert client.hello(timeout_s=10).broker_incarnation != before


def test_a_refused_client_goes_on_once_its_key_is_known(folder: Path, strangers: Path) -> None:
    """libzmq does not try again after a refusal, so the client itself has to."""
    keys = Keys.load(folder, "actor")
    knows_others = Keys.load(strangers, "broker")
    here = Keys.load(folder, "broker")
    blind = dataclasses.replace(here, peers={**here.peers, "actor": knows_others.peers["actor"]})
    with Broker(blind) as first, contextlib.ExitStack() as stack:
        port = int(first.server.endpoints["actor"].rpartition(":")[2])
        client = stack.enter_context(first.client("actor", keys, resend_s=60.0))
        with pytest.raises(NotLetIn):
            client.request(m.LeaseWork(kind="generate", version=0), timeout_s=10)
        kept = stack.pop_all()
    with kept, Broker(here, ports={"actor": port}):

        def served() -> bool:
            with contextlib.suppress(NotLetIn):
                return isinstance(client.request(m.LeaseWork(kind="generate", version=0)).header, m.NoWork)
            return False

        wait_until(served, "served, and introduced, over a new connection")


@pytest.mark.timeout(30)
def test_a_refused_socket_does_not_block_its_sender(broker: Broker, folder: Path) -> None:
    """It has no peer and will have none: a send without a limit waits for ever, and the whole client with it."""
    endpoint, keys = broker.server.endpoints["actor"], Keys.load(folder, "evaluator")
    with raw_client(endpoint, "broker", keys) as raw:
        raw.send(b"hello")
        broker.wait_for_failure("actor", "wrong_role")

        def go_on() -> None:
            for _ in range(100):
                raw.poll(20)
                raw.send(b"hello")

        with pytest.raises(zmq.Again):
            go_on()


# ------------------------------------------------------------------ the weights socket


@pytest.fixture
def publisher(folder: Path) -> Iterator[WeightPublisher]:
    threads = threading.active_count()
    publisher = WeightPublisher(weights_config(), host="127.0.0.1", keys=Keys.load(folder, "learner"))
    publisher.publish(0, [("w", torch.arange(16.0))])
    yield publisher
    publisher.close()
    wait_until(lambda: threading.active_count() <= threads, "no thread left behind")


def weight_failures() -> dict[str, float]:
    """Connections that the weights socket has refused in this process, by cause."""
    samples = [sample for family in AUTH_FAILURES.collect() for sample in family.samples]
    return {sample.labels["cause"]: sample.value for sample in samples if sample.name.endswith("_total")}


async def _follow(publisher: WeightPublisher, keys: Keys | None) -> None:
    """What an actor does with `keys`, for 20 s at most; raises what it raises."""
    receiver = WeightReceiver(
        FakeLLM(),
        weights_config(),
        endpoint=publisher.endpoint,
        name="a",
        incarnation="1",
        on_version=lambda version: None,
        on_pause=lambda: None,
        keys=keys,
    )
    await asyncio.wait_for(receiver.run(), 20)


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("evaluator", r"the learner does not let this actor in with .*evaluator\.secret"),
        ("learner", r"the learner does not let this actor in with .*learner\.secret"),
        ("stranger", r"the learner does not let this actor in with .*actor\.secret"),
        ("with another key of the learner", r"breaks off every handshake with this actor: .*learner\.public is not"),
        ("without keys", "the learner there wants keys, and this actor has none"),
    ],
)
def test_nobody_else_touches_weights(
    publisher: WeightPublisher, folder: Path, strangers: Path, who: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "SILENCE_S", 1.0)
    peers = {"learner": Keys.load(folder, "learner").public}
    keys = {
        "evaluator": dataclasses.replace(Keys.load(folder, "evaluator"), peers=peers),
        "learner": dataclasses.replace(Keys.load(folder, "learner"), peers=peers),
        "stranger": stranger(strangers, folder, "actor"),
        "with another key of the learner": Keys.load(strangers, "actor"),
        "without keys": None,
    }
    before = weight_failures()
    with pytest.raises(UserError, match=words):
        asyncio.run(_follow(publisher, keys[who]))
    wait_until(lambda: weight_failures() != before, "a failure counted")
    changed = {name for name, count in weight_failures().items() if count != before[name]}
    assert changed <= ({"plaintext", "no_key"} if who == "without keys" else {"wrong_key"})


def test_the_brokers_key_is_not_let_in_by_accident(publisher: WeightPublisher, folder: Path) -> None:
    """The learner holds the broker's public key, because it dials it; that is no right to its weights."""
    assert "broker" not in LETS_IN["learner"]
    keys = Keys.load(folder, "broker")
    broker = dataclasses.replace(keys, peers={**keys.peers, "learner": Keys.load(folder, "actor").peers["learner"]})
    before = weight_failures()
    with pytest.raises(UserError, match=r"does not let this actor in with .*broker\.secret"):
        asyncio.run(_follow(publisher, broker))
    wait_until(lambda: weight_failures()["wrong_role"] == before["wrong_role"] + 1, "a wrong role counted")


def test_an_actors_key_gets_weights_and_does_nothing_else(publisher: WeightPublisher, folder: Path) -> None:
    before = weight_failures()
    with raw_client(publisher.endpoint, "learner", Keys.load(folder, "actor")) as raw:
        raw.send_multipart([bytes(f) for f in encode(m.Publish(version=9, request_id=1))])
        raw.send_multipart([bytes(f) for f in encode(m.Join(name="a", incarnation="a"))])
        raw.send_multipart([bytes(f) for f in encode(m.Pull(request_id=2))])
        assert raw.poll(10_000)
        reply = decode(raw.recv_multipart())
    assert isinstance(reply.header, m.Snapshot)
    assert (reply.header.request_id, reply.header.version) == (2, 0)
    assert reply.array("chunk", "uint8").view("float32").tolist() == list(range(16))
    assert weight_failures() == before


def test_refusals_are_all_counted_and_fill_no_disk(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    counted: list[Cause] = []
    with zmq.Context() as context:
        gate = Gate(context, Keys.load(folder, "broker"), lambda name, cause: counted.append(cause))
        for _ in range(5):
            gate._refuse("actor", "wrong_key")
            gate._refuse("actor", "no_key")
        gate.close()
    assert len(counted) == 10
    assert [message.rpartition(" ")[2] for message in caplog.messages] == ["wrong_key", "no_key"]


# ------------------------------------------------------------------ processes


def run_room(room: str, config: RunConfig, directory: Path) -> subprocess.CompletedProcess[str]:
    directory.mkdir()
    dump_config(config, directory / "config.yaml")
    command = [sys.executable, "-m", room, "--run-dir", str(directory)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_with_bad_keys_says_one_line_and_exits_2(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    (tmp_path / "keys" / "broker.secret").chmod(0o644)
    tree = {**configuration().model_dump(), "security": {"keys": str(tmp_path / "keys")}}
    ended = run_room("broker", RunConfig.model_validate(tree), tmp_path / "run")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "error: " in ended.stderr
    assert "broker.secret: mode 0644: everybody on this machine can read it" in ended.stderr


def test_a_process_whose_key_is_refused_says_one_line_and_exits_2(
    broker: Broker, folder: Path, strangers: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    for source, name in ((folder, "broker.public"), (strangers, "evaluator.secret")):
        (keys / name).write_bytes((source / name).read_bytes())
        (keys / name).chmod(0o600)
    ports = {role: int(endpoint.rpartition(":")[2]) for role, endpoint in broker.server.endpoints.items()}
    tree = configuration(address="127.0.0.1", ports=ports).model_dump()
    config = RunConfig.model_validate({**tree, "security": {"keys": str(keys)}, "evaluator": {"code": "off"}})
    ended = run_room("evaluator", config, tmp_path / "run")
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        f"error: {broker.server.endpoints['evaluator']}: the broker does not let this evaluator in with "
        f"{keys}/evaluator.secret; give both sides the files of one zeroq keygen"
    )
    assert broker.failures() == {("evaluator", "wrong_key"): 1}
