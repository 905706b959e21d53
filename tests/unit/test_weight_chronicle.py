"""What the publisher remembers of its publishes: seconds by phase, epochs and aborts by cause."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest
from prometheus_client import generate_latest

from common.metrics import REGISTRY
from learner.weights import metrics
from learner.weights.chronicle import Story, members_by_state
from learner.weights.events import Action, AppliedCame, BroadcastEnded, Finished, Lost, ReadyCame, ReceivedCame, Tick
from tests.unit.test_weight_epochs import READY_S, TRANSFER_S, A, B, C, Machine


def story(actions: Iterable[Action]) -> Story:
    return next(action.story for action in actions if isinstance(action, Finished))


def test_the_seconds_of_each_phase() -> None:
    machine = Machine()
    machine.join(A)
    machine.request(1)
    machine.now += 2.0
    machine.do(ReadyCame(A, machine.epochs.epoch, 1))
    machine.now += 3.0
    machine.do(BroadcastEnded(machine.epochs.epoch))
    machine.do(ReceivedCame(A, machine.epochs.epoch, 1, True, "digest-1"))
    machine.now += 4.0
    told = story(machine.do(AppliedCame(A, 1)))
    assert dict(told.seconds) == pytest.approx({"propose": 2.0, "transfer": 3.0, "commit": 4.0})
    machine.now += 100.0  # between two publishes nothing is measured
    assert sum(story(machine.publish(2)).seconds.values()) == 0


def test_epochs_by_what_made_them_necessary() -> None:
    machine = Machine()
    machine.join(A)
    assert story(machine.publish(1)).epochs == {"first": 1}
    assert story(machine.publish(2)).epochs == {}, "the same members need no new epoch"
    machine.join(B)
    assert story(machine.publish(3)).epochs == {"joined": 1}
    machine.do(Lost(A))
    assert story(machine.publish(4)).epochs == {"left": 1}
    machine.do(Lost(B))
    machine.join(C)
    machine.join(A)
    assert story(machine.publish(5)).epochs == {"both": 1}


def test_a_lost_member_aborts_and_the_repetition_is_an_epoch_of_its_own() -> None:
    machine = Machine()
    machine.join(A, B)
    machine.to_transfer(1)
    machine.do(Lost(B))
    epoch = machine.epochs.epoch
    machine.do(ReadyCame(A, epoch, 1))
    machine.do(ReceivedCame(A, epoch, 1, True, "digest-1"))
    machine.do(BroadcastEnded(epoch))
    told = story(machine.do(AppliedCame(A, 1)))
    assert told.aborts == {"member_lost": 1}
    assert told.epochs == {"first": 1, "aborted": 1}


@pytest.mark.parametrize("cause", ["transfer_failed", "timeout"])
def test_broadcasts_that_fail_twice(cause: str) -> None:
    machine = Machine()
    machine.join(A)
    machine.request(1)
    told = []
    for _ in range(2):
        machine.do(ReadyCame(A, machine.epochs.epoch, 1))
        if cause == "timeout":
            machine.now += TRANSFER_S + 1
            told = machine.do(Tick())
        else:
            told = machine.do(BroadcastEnded(machine.epochs.epoch, "connection reset"))
    assert story(told).aborts == {cause: 2}


def test_an_actor_that_does_not_answer_costs_its_time_and_an_epoch() -> None:
    machine = Machine()
    machine.join(A, B)
    machine.request(1)
    machine.do(ReadyCame(A, machine.epochs.epoch, 1))
    machine.now += READY_S + 1
    machine.do(Tick())
    epoch = machine.epochs.epoch
    machine.do(ReadyCame(A, epoch, 1))
    machine.do(ReceivedCame(A, epoch, 1, True, "digest-1"))
    machine.do(BroadcastEnded(epoch))
    told = story(machine.do(AppliedCame(A, 1)))
    assert told.seconds["propose"] == pytest.approx(READY_S + 1)
    assert told.epochs == {"first": 1, "left": 1}


def test_members_by_what_they_hold() -> None:
    assert members_by_state([None, 3, 4, 4], 4) == {"current": 2, "stale": 1, "joining": 1}
    assert members_by_state([None], None) == {"current": 0, "stale": 0, "joining": 1}


def test_a_publish_shows_its_age_while_it_lasts() -> None:
    def age() -> float:
        line = next(
            line
            for line in generate_latest(REGISTRY).decode().splitlines()
            if line.startswith("zeroq_weights_publish_in_progress_seconds ")
        )
        return float(line.split()[1])

    assert age() == 0.0
    with contextlib.suppress(RuntimeError), metrics.publishing():
        assert age() > 0.0
        raise RuntimeError("the control thread is gone")
    assert age() == 0.0, "also when it failed"


def test_a_story_is_counted() -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    names = [
        ("zeroq_weights_epochs_total", {"cause": "joined"}, 2.0),
        ("zeroq_weights_broadcasts_aborted_total", {"cause": "timeout"}, 1.0),
        ("zeroq_weights_publish_phase_seconds_sum", {"phase": "commit"}, 0.5),
        ("zeroq_weights_publish_phase_seconds_count", {"phase": "commit"}, 1.0),
    ]
    before = [value(name, **labels) for name, labels, _ in names]
    told = Story()
    told.epochs["joined"] += 2
    told.aborts["timeout"] += 1
    told.seconds["commit"] += 0.5
    metrics.tell(told)
    after = [value(name, **labels) for name, labels, _ in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [grown for _, _, grown in names]
