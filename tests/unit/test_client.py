"""The broker's client against a fake broker that loses replies, answers late, or is not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import zmq

from common import messages as m
from common.client import BrokerClient
from common.errors import BrokerUnavailable
from common.messages import Header
from common.wire import Envelope, decode, encode

Answer = Callable[["FakeBroker", Envelope], Header | None]


class FakeBroker:
    """A ROUTER that answers with whatever `answer` returns; None: the reply is lost. Keeps (identity, envelope)."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.seen: list[tuple[bytes, Envelope]] = []
        self.answer: Answer = lambda broker, envelope: m.Ack()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        while not self.stop.is_set():
            if not self.socket.poll(20):
                continue
            identity, *frames = self.socket.recv_multipart()
            envelope = decode(frames)
            self.seen.append((identity, envelope))
            reply = self.answer(self, envelope)
            if reply is not None:
                reply = reply.model_copy(update={"request_id": envelope.header.request_id})
                self.socket.send_multipart([identity, *encode(reply)])
        self.socket.close(0)
        self.context.destroy(0)

    def of_type(self, kind: type[Header]) -> list[tuple[bytes, Envelope]]:
        return [item for item in self.seen if isinstance(item[1].header, kind)]


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    fake = FakeBroker()
    fake.thread.start()
    yield fake
    fake.stop.set()
    fake.thread.join(5)
    assert not fake.thread.is_alive()


def client(broker: FakeBroker, role: m.Role = "actor", **kwargs: float) -> BrokerClient:
    return BrokerClient(broker.endpoint, role, f"{role}-0", **kwargs)  # type: ignore[arg-type]


class Restarted:
    """Answers of a broker that knows nobody until they say hello, as one that has just been started."""

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.known: set[bytes] = set()

    def __call__(self, fake: FakeBroker, envelope: Envelope) -> Header:
        peer = fake.seen[-1][0]
        if isinstance(envelope.header, m.Hello):
            self.known.add(peer)
            return m.Welcome(broker_incarnation=self.incarnation, version=0)
        return m.Ack() if peer in self.known else m.Refused(code="unknown_peer", detail="say hello first")


def test_requests_are_pipelined_and_matched_by_id(broker: FakeBroker) -> None:
    held: list[Envelope] = []

    def reversed_pairs(fake: FakeBroker, envelope: Envelope) -> Header | None:
        held.append(envelope)
        if len(held) == 10:  # answer all, last first
            for late in reversed(held):
                reply = m.Ack(request_id=late.header.request_id, deadline_s=float(late.header.progress))  # type: ignore[attr-defined]
                fake.socket.send_multipart([fake.seen[0][0], *encode(reply)])
        return None

    broker.answer = reversed_pairs
    with client(broker) as c:
        futures = [c.call(m.Renew(lease_id="x", token=1, progress=i)) for i in range(10)]
        assert [f.result(10).header.deadline_s for f in futures] == [float(i) for i in range(10)]  # type: ignore[attr-defined]


def test_payload_arrives_and_small_requests_take_milliseconds(broker: FakeBroker) -> None:
    with client(broker) as c:
        c.request(m.Ack(), {"ids": np.arange(5, dtype=np.int32), "big": b"x" * 3_000_000}, timeout_s=10)
        started = time.monotonic()
        for _ in range(20):
            c.request(m.GetStatus(), timeout_s=10)
        assert time.monotonic() - started < 2  # not one poll interval each
    envelope = broker.seen[0][1]
    np.testing.assert_array_equal(envelope.payload["ids"], np.arange(5))
    assert len(envelope.payload["big"]) == 3_000_000


def test_a_lost_reply_is_asked_for_again_under_a_new_identity_with_the_same_id(broker: FakeBroker) -> None:
    def lose_first(fake: FakeBroker, envelope: Envelope) -> Header | None:
        return m.Ack() if len(fake.of_type(m.GetStatus)) > 1 else None

    broker.answer = lose_first
    with client(broker, resend_s=0.3) as c:
        assert isinstance(c.request(m.GetStatus(), timeout_s=10).header, m.Ack)
        (first, one), (second, two) = broker.of_type(m.GetStatus)
        assert one.header == two.header
        assert first != second
        # The new identity says who it is before it asks for anything.
        (_, hello) = next(item for item in broker.seen if item[0] == second)
        assert isinstance(hello.header, m.Hello)
        assert hello.header.incarnation == c.incarnation


def test_long_polls_are_not_sent_again_before_their_time(broker: FakeBroker) -> None:
    broker.answer = lambda fake, envelope: None if isinstance(envelope.header, m.LeaseWork) else m.Ack()
    with client(broker, resend_s=0.6) as c:
        future = c.call(m.LeaseWork(kind="generate", wait_s=1.5, version=0))
        deadline = time.monotonic() + 1.3
        while time.monotonic() < deadline:
            c.request(m.GetStatus(), timeout_s=5)
        assert len(broker.of_type(m.LeaseWork)) == 1
        deadline = time.monotonic() + 10
        while len(broker.of_type(m.LeaseWork)) < 2:
            assert time.monotonic() < deadline, "never sent again"
            c.request(m.GetStatus(), timeout_s=5)
        assert not future.done()


def test_late_and_foreign_replies_are_ignored(broker: FakeBroker) -> None:
    def twice(fake: FakeBroker, envelope: Envelope) -> Header | None:
        for request_id in (envelope.header.request_id, 10**6):
            fake.socket.send_multipart([fake.seen[-1][0], *encode(m.NoWork(request_id=request_id))])
        fake.socket.send_multipart([fake.seen[-1][0], b"garbage"])
        return m.Ack()

    broker.answer = twice
    with client(broker) as c:
        for _ in range(3):
            assert isinstance(c.request(m.GetStatus(), timeout_s=10).header, m.NoWork)


def test_giving_up_names_endpoint_time_and_attempts(broker: FakeBroker) -> None:
    broker.answer = lambda fake, envelope: None
    with client(broker, resend_s=0.2, give_up_s=0.8) as c:
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1.*attempts.*alive"):
            c.request(m.GetStatus(), timeout_s=20)
        assert len(broker.of_type(m.GetStatus)) >= 2


def test_a_timeout_of_ones_own_is_a_broker_unavailable(broker: FakeBroker) -> None:
    broker.answer = lambda fake, envelope: None
    with client(broker) as c, pytest.raises(BrokerUnavailable, match=r"get_status within 0\.2 s"):
        c.request(m.GetStatus(), timeout_s=0.2)


def test_close_fails_what_is_pending_and_refuses_more(broker: FakeBroker) -> None:
    broker.answer = lambda fake, envelope: None
    c = client(broker)
    futures = [c.call(m.GetStatus()) for _ in range(3)]
    c.close()
    c.close()
    for future in futures:
        with pytest.raises(BrokerUnavailable, match="closed before the reply"):
            future.result(5)
    with pytest.raises(BrokerUnavailable, match="is closed"):
        c.call(m.GetStatus())
    assert not any(t.name == "broker-client-actor-0" and t.is_alive() for t in threading.enumerate())


def test_hello_returns_the_welcome_and_refuses_anything_else(broker: FakeBroker) -> None:
    broker.answer = lambda fake, envelope: m.Welcome(broker_incarnation="b", version=4)
    with client(broker) as c:
        assert c.hello(10).version == 4
        broker.answer = lambda fake, envelope: m.Refused(code="stale", detail="replaced")
        with pytest.raises(BrokerUnavailable, match="replaced"):
            c.hello(10)


def test_a_cancelled_call_is_forgotten(broker: FakeBroker) -> None:
    broker.answer = lambda fake, envelope: None if isinstance(envelope.header, m.Take) else m.Ack()
    with client(broker, resend_s=0.2) as c:
        future = c.call(m.Take(purpose="train"))
        c.request(m.GetStatus(), timeout_s=5)
        assert future.cancel()
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            c.request(m.GetStatus(), timeout_s=5)
        assert len(broker.of_type(m.Take)) <= 2


@pytest.mark.parametrize("role", ["actor", "evaluator"])
def test_whom_a_new_broker_does_not_know_says_hello_and_asks_again(broker: FakeBroker, role: m.Role) -> None:
    broker.answer = Restarted("first")
    with client(broker, role) as c:
        assert c.hello(10).broker_incarnation == "first"
        broker.answer = Restarted("second")
        for _ in range(2):
            assert isinstance(c.request(m.GetStatus(), timeout_s=5).header, m.Ack)
        assert len(broker.of_type(m.Hello)) == 2


@pytest.mark.parametrize("how", ["refused", "unanswered"])
def test_a_learner_does_not_go_on_with_a_broker_that_holds_nothing_of_its(broker: FakeBroker, how: str) -> None:
    """It would wait for groups of tasks that the new broker was never given, for ever and without an error."""
    broker.answer = Restarted("first")
    with client(broker, "learner", resend_s=0.3) as c:
        c.hello(10)
        restarted = Restarted("second")

        def lose_what_was_under_way(fake: FakeBroker, envelope: Envelope) -> Header | None:
            if fake.seen[-1][0] == fake.seen[0][0]:
                return None
            return m.NoWork() if isinstance(envelope.header, m.Take) else restarted(fake, envelope)

        broker.answer = restarted if how == "refused" else lose_what_was_under_way
        takes = [c.call(m.Take(purpose="train")) for _ in range(2)]
        for take in takes:
            with pytest.raises(BrokerUnavailable, match="the broker was restarted, and what it held is lost"):
                take.result(10)
        with pytest.raises(BrokerUnavailable, match="the broker was restarted"):
            c.call(m.GetStatus())


def test_a_learner_that_was_replaced_is_told_so(broker: FakeBroker) -> None:
    broker.answer = Restarted("first")
    with client(broker, "learner") as c:
        c.hello(10)

        def replaced(fake: FakeBroker, envelope: Envelope) -> Header:
            if isinstance(envelope.header, m.Hello):
                return m.Refused(code="stale", detail="learner-0 was replaced by a newer incarnation; stop it")
            return m.Refused(code="unknown_peer", detail="say hello first")

        broker.answer = replaced
        with pytest.raises(BrokerUnavailable, match="was replaced by a newer incarnation"):
            c.request(m.GetStatus(), timeout_s=5)
