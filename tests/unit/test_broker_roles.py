"""Who may say what on which socket, introductions, and the status report."""

from __future__ import annotations

import numpy as np
import pytest
from broker_harness import Harness

from common import messages as m
from common.wire import encode

VERDICT = m.Verdict(outcome="pass", reward=1.0, rewards={})
ROLLOUT = m.RolloutMeta(num_tokens=1, text_bytes=0, finish_reason="stop")


@pytest.mark.parametrize(
    ("role", "header"),
    [
        ("actor", m.Take(purpose="train")),
        ("actor", m.Publish(version=1)),
        ("actor", m.LeaseWork(kind="grade")),
        ("actor", m.GetStatus()),
        ("actor", m.SubmitVerdicts(lease_id="x", token=1, task_id="t", verdicts=[VERDICT])),
        ("evaluator", m.LeaseWork(kind="generate", version=0)),
        ("evaluator", m.Release(task_ids=["t1"], outcome="trained")),
        ("evaluator", m.SubmitGroup(lease_id="x", token=1, task_id="t", rollouts=[ROLLOUT])),
        ("learner", m.LeaseWork(kind="generate", version=0)),
        ("learner", m.Renew(lease_id="x", token=1, progress=1)),
        ("monitor", m.AddTask(task_id="t", purpose="train", group_size=1, sampling=m.Sampling(max_tokens=1))),
        ("monitor", m.ReturnLease(lease_id="x", token=1, failed=True, reason="")),
        ("learner", m.Ack()),
        ("actor", m.Join(name="a", incarnation="b")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.type,
)  # fmt: skip
def test_a_message_of_another_role_is_refused(role: m.Role, header: m.Header) -> None:
    h = Harness()
    h.add("t1")
    if role != "learner":
        h.hello(f"{role}1", role)
    peer = b"learner" if role == "learner" else f"{role}1".encode()
    before = h.status()["queues"]
    assert h.ask(peer, role, header).code == "wrong_role"
    assert h.status()["queues"] == before


def test_hello_on_another_roles_socket_is_refused() -> None:
    h = Harness()
    refused = h.ask(b"actor1", "actor", m.Hello(role="learner", name="actor1", incarnation="i", version=7))
    assert refused.code == "wrong_role"
    assert h.status()["version"] == 0


@pytest.mark.parametrize("role", ["actor", "evaluator", "learner"])
def test_strangers_must_say_hello(role: m.Role) -> None:
    h = Harness(hello=False)
    header: m.Header = m.Take(purpose="train")
    if role != "learner":
        header = m.LeaseWork(kind="generate" if role == "actor" else "grade", version=0)
    refused = h.ask(b"stranger", role, header)
    assert refused.code == "unknown_peer"
    assert "hello" in refused.detail


def test_status_needs_no_introduction_on_the_monitor_socket() -> None:
    h = Harness(hello=False)
    status = h.ask(b"anyone", "monitor", m.GetStatus()).status
    assert status["queues"] == {"generate": 0, "grade": 0, "ready_train": 0, "ready_eval": 0}
    assert status["credit_limit"] == 4


def test_welcome_carries_what_the_learner_registered() -> None:
    h = Harness(hello=False)
    assert h.hello("actor1").weights_endpoint is None
    h.hello("learner", version=5, vocab_size=100, weights_endpoint="tcp://127.0.0.1:1")
    welcome = h.hello("actor1")
    assert (welcome.version, welcome.weights_endpoint) == (5, "tcp://127.0.0.1:1")
    assert welcome.broker_incarnation == "broker0000"


def test_unexpected_frames_are_refused() -> None:
    h = Harness()
    refused = h.ask(b"learner", "learner", m.Take(purpose="train"), {"extra": np.zeros(3, dtype=np.int32)})
    assert refused.code == "invalid"
    assert "extra" in refused.detail


def test_peers_are_listed_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.peers.MAX_PEERS", 3)
    h = Harness()
    for i in range(5):
        h.lease(f"actor{i}", version=0)
        h.now += 1
    listed = h.status()["peers"]
    assert [p["name"] for p in listed] == ["actor4", "actor3", "actor2", "learner"]
    assert listed[0]["idle_s"] == 1.0
    assert listed[0]["version"] == 0


def test_status_fits_a_header_whatever_peers_call_themselves() -> None:
    h = Harness(validate=False)
    for i in range(300):
        h.hello("actor" + "😀" * 110 + str(i), "actor", incarnation="😀" * 100 + str(i))
    for i in range(30):
        h.add("😀" * 120 + str(i), "eval")
        for _ in range(3):
            h.give_back("actor1", h.lease("actor1"), failed=True, reason="😀" * 512)
    encode(h.ask(b"monitor", "monitor", m.GetStatus()))
    assert len(h.status()["dead_letters"]) == 20


def test_another_roles_incarnation_gets_nothing_of_its_leases() -> None:
    """An actor that knew an evaluator's incarnation could ask for its lease again, and be sent the answer in it."""
    h = Harness()
    h.add("t1")
    h.generate()
    h.hello("evaluator1")
    held = h.send(b"evaluator1", "evaluator", m.LeaseWork(kind="grade"), request_id=77)
    assert held is not None
    assert "spec" in held.payload
    h.ask(b"spy", "actor", m.Hello(role="actor", name="spy", incarnation="evaluator1-inc"))
    stolen = h.send(b"spy", "actor", m.LeaseWork(kind="generate", version=0), request_id=77)
    assert stolen is not None
    assert isinstance(stolen.header, m.NoWork)
    again = h.send(b"evaluator1", "evaluator", m.LeaseWork(kind="grade"), request_id=77)
    assert again is not None
    assert again.header.lease_id == held.header.lease_id  # type: ignore[attr-defined]


def test_nobody_has_peers_of_another_role_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.peers.MAX_PEERS", 3)
    h = Harness()
    h.hello("actor1")
    for i in range(9):
        h.hello(f"evaluator{i}")
    assert [p["name"] for p in h.status()["peers"] if p["role"] == "evaluator"] == [f"evaluator{i}" for i in (8, 7, 6)]
    assert isinstance(h.ask(b"learner", "learner", m.Take(purpose="train")), m.NoWork)
    assert isinstance(h.lease("actor1"), m.NoWork)


def test_a_connection_speaks_for_one_incarnation() -> None:
    """Otherwise one peer, with hello after hello, could use up the broker's memory."""
    h = Harness()
    for i in range(9):
        h.hello("evaluator1", incarnation=f"i{i}")
    peers = h.state.core.peers
    assert len(peers) == 2
    assert not peers.knows("evaluator", "i7")
    assert peers.knows("evaluator", "i8")


def test_waiting_evaluators_leave_room_for_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.waiting.MAX_WAITERS", 2)
    h = Harness()
    for i in range(3):
        h.lease(f"evaluator{i}", wait_s=9)
    assert h.send(b"learner", "learner", m.Take(purpose="train", wait_s=9)) is None
