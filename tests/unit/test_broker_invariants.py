"""The validator finds what it is there to find, and tells the task's story."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from broker_harness import Harness, make_config

from broker.core import Core
from broker.invariants import check
from broker.records import Place


def lose(core: Core) -> None:
    core.ledger.queues["generate"].pop()


def double(core: Core) -> None:
    core.ledger.queues["grade"].push(core.ledger.tasks["queued"])


def misplace(core: Core) -> None:
    core.ledger.tasks["queued"].place = Place.READY


def resurrect(core: Core) -> None:
    core.ledger.ready["train"].push(0, "trained")


def forget_lease(core: Core) -> None:
    core.ledger.tasks["leased"].lease_id = None


def reuse_token(core: Core) -> None:
    lease = next(iter(core.leases.active.values()))
    lease.token = next(iter(core.leases.ended.values())).token


def overdraw(core: Core) -> None:
    core.ledger.credit_limit = 1


def miscount(core: Core) -> None:
    core.ledger.counters["groups_trained"] += 1


def drift(core: Core) -> None:
    core.ledger.pace.starts[7] += 1


def exhaust(core: Core) -> None:
    core.ledger.tasks["queued"].attempts = 3


def end_twice(core: Core) -> None:
    core.ledger.finished["queued"] = core.ledger.finished["trained"]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lose, "is in no place"),
        (double, "should be in generate queue"),
        (misplace, "should be in ready"),
        (resurrect, "finished or was never admitted"),
        (forget_lease, "lease None"),
        (reuse_token, "share a fencing token"),
        (overdraw, "credit is 1"),
        (miscount, "tasks admitted"),
        (drift, "started tasks by version"),
        (exhaust, "no dead letter"),
        (end_twice, "both finished and alive"),
    ],
)
def test_damage_is_found(damage: Callable[[Core], None], text: str) -> None:
    h = Harness(make_config(groups_per_step=3), validate=False)
    for name in ("trained", "leased", "queued"):
        h.add(name)
    h.complete()
    h.release(str(h.taken_id()))
    h.lease("actor1")
    check(h.state.core)
    damage(h.state.core)
    with pytest.raises(AssertionError, match=text):
        check(h.state.core)


def test_the_story_is_told() -> None:
    h = Harness(validate=False)
    h.add("t1")
    h.complete()
    h.taken_id()
    h.state.core.ledger.tasks["t1"].place = Place.READY
    with pytest.raises(AssertionError) as caught:
        check(h.state.core)
    story = str(caught.value)
    words = ["admitted", "leased", "actor1", "generated, token versions 0..0", "leased", "graded", "taken at version 0"]
    at = [story.index(word) for word in words[:4]]
    assert at == sorted(at)
    assert all(word in story for word in words)
