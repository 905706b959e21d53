"""One autoscaler acts, another takes over within a bound, and never two at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.autoscaler.election import DURATION_S, RENEW_DEADLINE_S, RETRY_S, Election
from launcher.k8s.client import REQUEST_TIMEOUT_S
from launcher.k8s.errors import Conflict, Unavailable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class MemoryLease:
    """A Lease object with a resource version, and an API that can be down."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {"metadata": {"name": "l", "resourceVersion": "1"}}
        self.down = False
        self.writes = 0

    def lease(self, name: str) -> dict[str, Any]:
        if self.down:
            raise Unavailable("down")
        return copy.deepcopy(self.body)

    def replace_lease(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.down:
            raise Unavailable("down")
        if body["metadata"]["resourceVersion"] != self.body["metadata"]["resourceVersion"]:
            raise Conflict("changed meanwhile")
        self.writes += 1
        self.body = copy.deepcopy(body)
        self.body["metadata"]["resourceVersion"] = str(self.writes + 1)
        return copy.deepcopy(self.body)


def pair() -> tuple[Clock, MemoryLease, Election, Election]:
    clock, api = Clock(), MemoryLease()
    return clock, api, Election(api, "l", "a", clock=clock), Election(api, "l", "b", clock=clock)


def test_the_first_leads_and_the_second_stands_by() -> None:
    clock, api, a, b = pair()
    assert a.step()
    assert not b.step()
    assert b.holder == "a"
    assert api.body["spec"]["leaseDurationSeconds"] == DURATION_S
    for _ in range(60):
        clock.now += 1.0
        assert a.step()
        assert not b.step()
    assert api.body["spec"]["leaseTransitions"] == 1


def test_a_loser_takes_over_within_the_bound() -> None:
    clock, api, a, b = pair()
    assert a.step()
    assert not b.step()
    died = clock.now
    while not b.step():
        clock.now += 0.5
        assert clock.now - died <= DURATION_S + 2 * RETRY_S
    assert not a.leads
    assert api.body["spec"]["holderIdentity"] == "b"
    assert api.body["spec"]["leaseTransitions"] == 2


def test_a_resigned_lease_is_free_at_once() -> None:
    clock, _, a, b = pair()
    assert a.step()
    assert not b.step()
    a.resign()
    assert not a.leads
    clock.now += RETRY_S
    assert b.step()


def test_who_cannot_renew_stops_acting_before_another_may_begin() -> None:
    clock, api, a, _ = pair()
    assert a.step()
    api.down = True
    clock.now += RENEW_DEADLINE_S - 0.1
    with pytest.raises(Unavailable):
        a.step()
    assert a.leads
    clock.now += 0.2
    assert not a.leads
    assert RENEW_DEADLINE_S + REQUEST_TIMEOUT_S <= DURATION_S


def test_a_conflict_means_that_somebody_was_quicker() -> None:
    _, api, a, b = pair()
    api.lease, stale = (lambda name: copy.deepcopy(first)), api.lease  # type: ignore[method-assign]
    first = stale("l")
    assert a.step()
    assert not b.step()  # read the free Lease, too, and wrote second
    assert not b.leads


def test_clocks_of_other_machines_do_not_matter() -> None:
    _, api, a, b = pair()
    assert a.step()
    api.body["spec"]["renewTime"] = "1990-01-01T00:00:00.000000Z"
    assert not b.step()


def test_times_that_would_let_two_act_are_refused() -> None:
    with pytest.raises(ValueError, match="two would act"):
        Election(MemoryLease(), "l", "a", duration_s=10.0, renew_deadline_s=9.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc-"), st.booleans(), st.floats(0.1, 4.0)), max_size=120))
def test_never_two_at_once(events: list[tuple[str, bool, float]]) -> None:
    """Whoever steps when, with the API down or not: at most one leads at any moment."""
    clock, api = Clock(), MemoryLease()
    candidates = {name: Election(api, "l", name, clock=clock) for name in "abc"}
    for name, api.down, passed_s in events:
        clock.now += passed_s
        if name in candidates:
            try:
                candidates[name].step()
            except Unavailable:
                assert api.down
        assert sum(candidate.leads for candidate in candidates.values()) <= 1
