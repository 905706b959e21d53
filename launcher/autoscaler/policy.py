"""The policy: from what happened lately to how many evaluators and actors there should be. Pure functions.

Evaluators. A group costs one evaluator `L / slots` seconds, where L is the measured time from grade lease to verdicts
and an evaluator grades `slots` groups at once (evaluator.max_concurrent_groups). If grading does not really run in
parallel, L grows with the load, so the quotient stays right where it matters, at a busy evaluator. Two things need
evaluators:

    demand = arrivals/s * L / slots                       to keep up with what comes in
           + waiting groups * L / slots / target_s        to work off the backlog within autoscaler.grading_target_s

Groups that are being graded do not count as backlog: no further evaluator makes them faster. The first term is what
keeps the number steady at a constant load; by backlog alone evaluators would go as soon as they have worked it off.

Actors. One more while the learner starves for groups that actors have not made yet (not for groups that wait for
grading, and not while actors are idle because credit is used up: more of them would only share the same tasks). None
more at the staleness ceiling, where groups get too old before they are trained on: more actors make that worse. One
less when the learner does not starve and a whole publish's worth of groups waits for it, or when groups go to waste at
the ceiling; but not if the others could not keep up. What an actor can do is known from when the learner last starved
for actors, so all of them were busy; without that memory two would become three, and three two, for ever. GPU
utilisation says nothing here: a generating GPU is always busy.

The learner takes a publish's worth of groups, computes, and waits for the next. So its starvation is measured over
whole publishes, EVIDENCE of them, and only since the number of actors at work last changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from common.config import RunConfig
from launcher.autoscaler.observation import Span

ScaleRole = Literal["evaluator", "actor"]
Reason = Literal["backlog", "surplus", "starved", "ahead", "stale", "floor", "ceiling", "steady"]
"""Why: labels of a metric, so there are few. `detail` says it in figures."""

EVIDENCE = 2  # publishes
HEADROOM = 0.8  # processes are removed only if those that stay are busy for less than this share of the time
CALM = 0.5  # actors are removed only if the learner starves for less than this share of starved_ratio
REMEMBER_S = 3600.0  # completions grow and shrink while a model learns, so what an actor could do is found out anew
MAX_SWEPT_SHARE = 0.05  # of the groups generated; above it, work goes to waste at the staleness ceiling
NEAR_CEILING = 0.9  # mean staleness of taken groups, as a share of max_staleness


@dataclass(frozen=True, slots=True)
class Wish:
    """How many there should be by the last observations alone. `least` to `most` are all fine: a change is wished for
    only when the current number lies outside."""

    least: int
    most: int
    reason: Reason
    detail: str


def wish_evaluators(span: Span, config: RunConfig) -> Wish:
    """By arrivals, backlog and service time; never a wish for none. While nothing has been graded anything goes, but
    somebody has to begin with what waits."""
    grading_s, waiting = span.grading_s, span.last.grade_queue
    if grading_s is None:
        detail = f"{waiting} groups wait, nothing has been graded yet"
        return Wish(min(1, waiting), 1_000_000, "backlog" if waiting else "steady", detail)
    service_s = grading_s / config.evaluator.max_concurrent_groups
    demand = service_s * (span.arrivals_per_s + waiting / config.autoscaler.grading_target_s)
    detail = (
        f"{waiting} groups wait, {span.arrivals_per_s:.2f} groups/s come in, {service_s:.2f} s of one evaluator each: "
        f"{demand:.2f} evaluators needed"
    )
    least = math.ceil(demand)
    return Wish(least, max(1, least, math.ceil(demand / HEADROOM)), "backlog", detail)


@dataclass(frozen=True, slots=True)
class ActorRate:
    """Groups per second of one actor that was busy all the time, and when that was (monotonic seconds)."""

    per_s: float
    at: float


def enough(up: Span, config: RunConfig) -> bool:
    """Whether a span says anything about actors: EVIDENCE publishes were trained on, or nothing came for a long
    time."""
    many = up.grown("taken") >= EVIDENCE * config.groups_per_publish
    return many or up.seconds >= config.autoscaler.actors.scale_down_after_s


def actor_rate(up: Span, config: RunConfig, ready: int, known: ActorRate | None) -> ActorRate | None:
    """What one actor can do: measured anew if `up`, with `ready` actors at work all the time, was a time of starvation
    for them; else what is known, for a while."""
    starved = enough(up, config) and up.share("starved_by_actors_s") > config.autoscaler.starved_ratio
    if ready and starved and up.grown("generated"):
        return ActorRate(up.arrivals_per_s / ready, up.last.at)
    return None if known is None or up.last.at - known.at > REMEMBER_S else known


def wish_actors(
    up: Span, down: Span, config: RunConfig, current: int, ready: int, rate: ActorRate | None = None
) -> Wish:
    """By starvation over `up` and surplus over `down`; `ready` of the `current` actors are at work, and have been at
    work all through `up`."""
    ratio, ceiling = config.autoscaler.starved_ratio, config.learner.max_staleness
    by_actors = up.share("starved_by_actors_s")
    swept, made = up.grown("swept"), up.grown("generated")
    stale = swept > MAX_SWEPT_SHARE * max(1, made)
    near = ceiling > 0 and up.staleness is not None and up.staleness >= NEAR_CEILING * ceiling
    shown = "-" if up.staleness is None else f"{up.staleness:.1f}"
    detail = (
        f"the learner waited {100 * by_actors:.0f} % of the time for actors, {100 * up.starved:.0f} % in all; "
        f"staleness {shown} of at most {ceiling}, {swept} of {made} groups swept, {up.last.ready_train} ready"
    )
    if current == 0 and up.last.generate_queue:
        return Wish(1, 1, "starved", f"{up.last.generate_queue} tasks wait, and there is no actor")
    if by_actors > ratio and by_actors > 0:
        if stale or near:
            return Wish(current, current, "stale", f"{detail}: no more actors at the staleness ceiling")
        if ready < current:
            return Wish(current, current, "starved", f"{detail}: {current - ready} actor(s) are starting")
        if not enough(up, config):
            return Wish(current, current, "starved", f"{detail}: too early to tell, after {up.seconds:.0f} s")
        return Wish(current + 1, current + 1, "starved", detail)
    if down.starved > CALM * ratio or not down.grown("taken"):  # a learner that takes nothing says nothing about actors
        return Wish(current, current, "steady", detail)
    if current <= 1:
        return Wish(current, current, "steady", f"{detail}; somebody has to do the next task")
    needed_per_s = down.grown("taken") / down.seconds
    if rate is not None and needed_per_s > HEADROOM * (current - 1) * rate.per_s:
        fewer = f"{current - 1} actor(s) make {(current - 1) * rate.per_s:.2f} groups/s"
        return Wish(current, current, "steady", f"{detail}; {fewer}, {needed_per_s:.2f} are trained on")
    if stale:
        return Wish(current - 1, current - 1, "stale", detail)
    if down.last.ready_train >= config.groups_per_publish:
        return Wish(current - 1, current - 1, "ahead", detail)
    return Wish(current, current, "steady", detail)
