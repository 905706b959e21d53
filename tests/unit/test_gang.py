"""The gang runs all nodes' ranks or none, for every order of failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.gang import SILENT_S, Gang, NodeState, Order, Report


@dataclass
class FakeNode:
    """A node as learner/node.py obeys, without processes."""

    number: int
    incarnation: str = "a"
    now: tuple[str, int] = ("", 0)
    state: NodeState = "idle"
    order: Order | None = None

    def report(self, gang: Gang, now: float) -> Order:
        told = Report(
            node=self.number, incarnation=self.incarnation, gang=self.now[0], generation=self.now[1], state=self.state
        )
        self.order = order = gang.hear(told, now)
        wanted = (order.gang, order.generation)
        if order.finished:
            self.state = "finished"
        elif order.go and wanted != self.now:
            self.now, self.state = wanted, "running"
        elif not order.go:
            self.state = "idle"
        return order


@dataclass
class Rig:
    """Nodes, a clock, and what a gang of them does."""

    num_nodes: int = 3
    now: float = 1000.0
    ports: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gang = self.new_gang()
        self.nodes = [FakeNode(number) for number in range(self.num_nodes)]

    def new_gang(self) -> Gang:
        return Gang(self.num_nodes, pick_port=self.pick_port)

    def pick_port(self) -> int:
        self.ports.append(40_000 + len(self.ports))
        return self.ports[-1]

    def rounds(self, count: int = 3, *, nodes: list[int] | None = None, step_s: float = 0.5) -> None:
        for _ in range(count):
            self.now += step_s
            for number in range(self.num_nodes) if nodes is None else nodes:
                self.nodes[number].report(self.gang, self.now)

    def until(self, condition: Callable[[], bool], *, within: int = 200) -> None:
        for _ in range(within):
            if condition():
                return
            self.rounds(1)
        raise AssertionError(f"{self.gang.__dict__}")

    def all_run(self, generation: int) -> bool:
        return all(node.state == "running" and node.now[1] == generation for node in self.nodes)


def test_nothing_runs_before_all_are_there() -> None:
    rig = Rig()
    rig.rounds(nodes=[0, 2])
    assert [node.state for node in rig.nodes] == ["idle"] * 3
    assert rig.nodes[0].order is not None
    assert rig.nodes[0].order.reason == "waiting for node 1"
    rig.rounds()
    assert rig.all_run(1)
    assert {node.order.port for node in rig.nodes if node.order} == {40_000}


def test_a_failure_ends_the_generation_for_all_and_the_next_one_begins() -> None:
    rig = Rig()
    rig.rounds()
    rig.nodes[2].state = "failed"
    rig.rounds(1, nodes=[2])
    rig.rounds(1, nodes=[0])
    assert rig.nodes[0].state == "idle"
    assert rig.nodes[1].state == "running"
    rig.rounds(4, nodes=[0, 2])
    assert rig.nodes[0].state == "idle"  # node 1 still runs what is over: its ranks would meet nobody
    rig.rounds()
    assert rig.all_run(2)
    assert rig.ports == [40_000, 40_001]


def test_a_node_that_was_replaced_ends_the_generation_at_once() -> None:
    rig = Rig()
    rig.rounds()
    rig.nodes[1] = FakeNode(1, incarnation="b")
    rig.rounds(1, nodes=[1])
    assert not rig.gang.running
    rig.rounds(4)
    assert rig.all_run(2)


def test_a_silent_node_ends_the_generation_within_a_bound() -> None:
    rig = Rig()
    rig.rounds()
    silent_from = rig.now
    while rig.gang.running:
        rig.rounds(1, nodes=[0, 1])
    assert SILENT_S < rig.now - silent_from <= SILENT_S + 1
    rig.rounds(10, nodes=[0, 1])
    assert not rig.gang.running  # and none begins without it
    rig.rounds()
    assert rig.all_run(2)


def test_the_seat_of_the_gang_is_replaced() -> None:
    rig = Rig()
    rig.rounds()
    rig.gang = rig.new_gang()  # counts from 1 again: the generation that the others run has the same number
    rig.nodes[0] = FakeNode(0, incarnation="b")
    rig.rounds(1)
    assert rig.nodes[1].state == "idle"
    rig.rounds()
    assert rig.all_run(1)
    assert {node.now[0] for node in rig.nodes} == {rig.gang.name}


def test_training_is_finished_when_all_have_left_and_rank_0_says_so() -> None:
    rig = Rig()
    rig.rounds()
    rig.nodes[0].state = "finished"
    rig.nodes[1].state = "ended"
    rig.rounds()
    assert not rig.gang.finished
    rig.nodes[2].state = "ended"
    rig.rounds()
    assert [node.state for node in rig.nodes] == ["finished"] * 3
    rig.nodes[1] = FakeNode(1, incarnation="b")
    rig.rounds(5)
    assert [node.state for node in rig.nodes] == ["finished"] * 3


def test_ranks_that_do_not_leave_with_the_others_are_not_waited_for_without_end() -> None:
    rig = Rig()
    rig.rounds()
    rig.nodes[2].state = "ended"
    rig.rounds(200)
    assert rig.gang.running
    rig.until(lambda: rig.all_run(2))
    rig.nodes[0].state = "finished"
    rig.until(lambda: rig.gang.finished, within=250)
    assert rig.nodes[1].state == "finished"


def test_a_stop_is_no_failure_and_training_goes_on_when_the_node_is_back() -> None:
    rig = Rig()
    for generation in range(1, 9):
        rig.until(lambda wanted=generation: rig.all_run(wanted), within=4)  # type: ignore[misc]
        for node in rig.nodes:
            node.state = "ended"
        rig.rounds(1)


def test_failures_in_a_row_are_followed_by_longer_pauses() -> None:
    rig, pauses = Rig(), []
    for generation in range(1, 8):
        began = rig.now
        rig.until(lambda wanted=generation: rig.all_run(wanted))  # type: ignore[misc]
        pauses.append(rig.now - began)
        rig.nodes[1].state = "failed"
    assert pauses == sorted(pauses)
    assert pauses[1] <= 1.5
    assert 30 <= pauses[-1] <= 32


def test_a_node_that_was_just_told_to_run_is_waited_for() -> None:
    rig = Rig()
    for node in (0, 1, 2, 0):
        rig.rounds(1, nodes=[node])
    assert [node.state for node in rig.nodes] == ["running", "idle", "running"]
    rig.nodes[2].state = "failed"  # and node 0 has not reported since it was told to run
    rig.rounds(4, nodes=[2, 1])
    assert [node.state for node in rig.nodes] == ["running", "idle", "idle"]
    rig.until(lambda: rig.all_run(2))


def test_a_node_beyond_the_number_is_refused() -> None:
    with pytest.raises(ValueError, match="node 3 of 3: every node needs the same --nodes"):
        Rig().gang.hear(Report(node=3, incarnation="a"), 0.0)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["report", "fail", "replace", "end", "wait", "seat"]), st.integers(0, 2)), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS)
def test_never_two_generations_at_once_and_always_one_in_the_end(events: list[tuple[str, int]]) -> None:
    rig = Rig()
    for what, number in events:
        node = rig.nodes[number]
        match what:
            case "report":
                rig.rounds(1, nodes=[number])
            case "fail" if node.state == "running":
                node.state = "failed"
            case "replace":
                rig.nodes[number] = FakeNode(number, incarnation=node.incarnation + "x")
                if number == 0:
                    rig.gang = rig.new_gang()
            case "end" if node.state == "running":
                node.state = "ended"
            case "wait":
                rig.now += 4.0
            case _:
                pass
        alive = {n.now for n in rig.nodes if n.state == "running" and n.now[0] == rig.gang.name}
        assert len(alive) <= 1, alive
    rig.until(lambda: rig.gang.running and rig.all_run(rig.gang.generation), within=400)
