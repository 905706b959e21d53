"""Owns evaluation on held-out problems: k samples and one greedy completion of each, through the same river.

Tasks of purpose `eval` go to the broker; graded groups are collected as they come, so that an evaluation runs beside
training. Figures belong to the step and version at which they were submitted. Rank 0 only.

    pass@1    mean over problems and samples of "the verdict passed"
    greedy    the same for the one completion at temperature 0
    cons@k    share of problems whose most frequent answer passed (ties: the answer that came first)

General prompts (`data.general_eval`) have no right answer: of them, the mean of each reward component is reported, over
the completions that it applies to.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from common.client import BrokerClient
from common.config import RunConfig
from common.errors import RunFailure
from common.messages import Ack, AddTask, Refused, Release, Sampling
from common.wire import Array
from learner.batch import TakenGroup
from learner.feed import REPLY_TIMEOUT_S, ProblemFile, task_payload
from learner.intake import GivenUp, TakeQueue

Kind = Literal["samples", "greedy", "general"]
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BATCH = 256


@dataclass(frozen=True)
class EvaluationFigures:
    """Result of one evaluation. Shares are 0..1, lengths in tokens; None where nothing was measured."""

    label: str
    step: int
    version: int
    num_problems: int
    num_lost: int
    """Tasks that were dead-lettered; they are in no figure."""
    pass_at_1: float | None
    greedy: float | None
    cons_at_k: float | None
    mean_length: float | None
    """Mean over the sampled completions, not the greedy ones."""
    greedy_mean_length: float | None
    truncated: float | None
    seconds: float
    general: dict[str, float] = field(default_factory=dict)
    """Of general prompts: mean of each reward component by its name, of `reward`, and of `length` in tokens."""


@dataclass
class _Evaluation:
    label: str
    step: int
    version: int
    num_problems: int
    began: float
    waiting: set[str]
    groups: dict[Kind, list[TakenGroup]] = field(default_factory=lambda: {"samples": [], "greedy": [], "general": []})
    num_lost: int = 0


class EvaluationDesk:
    """Submits evaluations and collects them; several may be under way."""

    def __init__(
        self,
        client: BrokerClient,
        config: RunConfig,
        problems: ProblemFile,
        *,
        idle_limit_s: float,
        general: ProblemFile | None = None,
    ) -> None:
        """`general`: general prompts, evaluated with every other problem."""
        self.client, self.config, self.idle_limit_s = client, config, idle_limit_s
        self.problems, self.general = problems, general
        self.queue = TakeQueue(client, "eval")
        self._given_up = GivenUp(client)
        self._running: list[_Evaluation] = []
        self._to_submit: list[tuple[str, int, Kind]] = []
        self._num_started = 0
        self._next_status = 0.0
        self._alive = time.monotonic()

    @property
    def pending(self) -> bool:
        """Is any evaluation under way?"""
        return bool(self._running)

    def submit(self, label: str, *, step: int, version: int) -> None:
        """Start an evaluation of all problems. Task ids are unique to this process and evaluation."""
        prefix = f"eval-{self.client.incarnation[:8]}-{self._num_started}"
        self._num_started += 1
        kinds: list[Kind] = ["samples", "greedy"] if self.config.eval.greedy else ["samples"]
        tasks = [(f"{prefix}-{kind}-{i}", i, kind) for i in range(len(self.problems)) for kind in kinds]
        if self.general is not None:
            tasks += [(f"{prefix}-general-{i}", i, "general") for i in range(len(self.general))]
        began = time.monotonic()
        self._alive = began
        self._running.append(
            _Evaluation(label, step, version, len(self.problems), began, {task_id for task_id, _, _ in tasks})
        )
        self._to_submit += tasks
        self._submit_waiting()

    def poll(self, wait_s: float) -> list[EvaluationFigures]:
        """Collect what comes within `wait_s`; the evaluations that are complete now."""
        if wait_s <= 0:
            self._alive = time.monotonic()  # nobody waits for this evaluation now
        self._submit_waiting()
        wanted = sum(len(running.waiting) for running in self._running)
        taken = self.queue.poll(wanted, wait_s)
        for group in taken:
            self._alive = time.monotonic()
            self._receive(group)
        if taken:
            ids = [group.task_id for group in taken]
            self.client.request(Release(task_ids=ids, outcome="trained"), timeout_s=REPLY_TIMEOUT_S)
        elif self._running and wait_s > 0:
            self._look_around()
        complete = [running for running in self._running if not running.waiting]
        self._running = [running for running in self._running if running.waiting]
        return [summarise(running) for running in complete]

    def drop_dead_letters(self) -> dict[str, Any]:
        """Stop waiting for tasks that the broker gave up; the broker's status."""
        status, given_up = self._given_up.look()
        dead = set(given_up)
        for running in self._running:
            running.num_lost += len(running.waiting & dead)
            running.waiting -= dead
        return status

    def _submit_waiting(self) -> None:
        """Hand tasks to the broker until it has enough (it bounds evaluation tasks too)."""
        while self._to_submit:
            batch, self._to_submit = self._to_submit[:_BATCH], self._to_submit[_BATCH:]
            calls = [(task, self.client.call(self._header(*task), self._payload(*task))) for task in batch]
            full = []
            for task, call in calls:
                header = call.result(REPLY_TIMEOUT_S).header
                if isinstance(header, Refused) and header.code == "no_credit":
                    full.append(task)
                elif not isinstance(header, Ack):
                    raise RunFailure(f"the broker refused evaluation task {task[0]}: {header}")
            if full:
                self._to_submit = full + self._to_submit
                return

    def _payload(self, _task_id: str, problem: int, kind: Kind) -> dict[str, Array | bytes]:
        file = self.general if kind == "general" else self.problems
        assert file is not None
        return task_payload(file[problem])

    def _header(self, task_id: str, _problem: int, kind: Kind) -> AddTask:
        config = self.config.eval
        limit = config.max_tokens or self.config.rollout.max_tokens
        sampling = Sampling(max_tokens=limit, temperature=0.0)
        if kind != "greedy":
            sampling = Sampling(max_tokens=limit, temperature=config.temperature, top_p=config.top_p)
        return AddTask(
            task_id=task_id,
            purpose="eval",
            group_size=1 if kind == "greedy" else config.samples,
            sampling=sampling,
        )

    def _receive(self, group: TakenGroup) -> None:
        for running in self._running:
            if group.task_id in running.waiting:
                running.waiting.discard(group.task_id)
                running.groups[cast(Kind, group.task_id.rsplit("-", 2)[1])].append(group)

    def _look_around(self) -> None:
        if time.monotonic() < self._next_status:
            return
        self._next_status = time.monotonic() + 2.0
        status = self.drop_dead_letters()
        if any(status["leases"].values()):
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > self.idle_limit_s:
            raise RunFailure(
                f"no actor or evaluator has held a lease for {self.idle_limit_s:.0f} s while evaluation tasks wait "
                f"({status['queues']}); see the logs of actors and evaluators"
            )


def summarise(evaluation: _Evaluation) -> EvaluationFigures:
    """Figures of a complete evaluation."""
    samples, greedy = evaluation.groups["samples"], evaluation.groups["greedy"]
    return EvaluationFigures(
        label=evaluation.label,
        step=evaluation.step,
        version=evaluation.version,
        num_problems=evaluation.num_problems,
        num_lost=evaluation.num_lost,
        pass_at_1=_mean([_pass_share(group) for group in samples]),
        greedy=_mean([_pass_share(group) for group in greedy]),
        cons_at_k=consensus(samples),
        mean_length=_mean([length for group in samples for length in group.lengths]),
        greedy_mean_length=_mean([length for group in greedy for length in group.lengths]),
        truncated=_mean([float(r.finish_reason == "length") for group in samples for r in group.header.rollouts]),
        seconds=time.monotonic() - evaluation.began,
        general=component_means(evaluation.groups["general"]),
    )


def component_means(groups: Sequence[TakenGroup]) -> dict[str, float]:
    """Mean of each reward component over the rollouts that it applies to, of `reward` and of `length` over all."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for verdict, length in zip(group.header.verdicts, group.lengths, strict=True):
            for name, value in {**verdict.rewards, "reward": verdict.reward, "length": float(length)}.items():
                if value is not None:
                    values.setdefault(name, []).append(value)
    return {name: sum(v) / len(v) for name, v in sorted(values.items())}


def consensus(groups: Sequence[TakenGroup]) -> float | None:
    """cons@k over the text between <answer> tags; None when no completion has such an answer."""
    results, any_answer = [], False
    for group in groups:
        answers = [_ANSWER.findall(text) for text in group.rollout_texts()]
        last = [found[-1].strip() if found else None for found in answers]
        votes = Counter(answer for answer in last if answer is not None)
        any_answer = any_answer or bool(votes)
        passed = False
        if votes:
            winner = votes.most_common(1)[0][0]
            pairs = zip(last, group.header.verdicts, strict=True)
            passed = any(answer == winner and verdict.outcome == "pass" for answer, verdict in pairs)
        results.append(float(passed))
    return _mean(results) if any_answer else None


def event_fields(figures: EvaluationFigures) -> dict[str, Any]:
    """Fields of the `evaluation` event; figures of general prompts as `general/NAME/mean`."""
    fields = asdict(figures)
    return fields | general_fields(fields.pop("general"))


def general_fields(general: dict[str, float]) -> dict[str, float]:
    """Figures of general prompts under their names in events and metrics."""
    return {f"general/{name}/mean": value for name, value in general.items()}


def _pass_share(group: TakenGroup) -> float:
    verdicts = group.header.verdicts
    return sum(verdict.outcome == "pass" for verdict in verdicts) / len(verdicts)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
