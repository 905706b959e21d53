"""Broker: queues, leases, groups by outcome, latency, refusals."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target, bad_above
from launcher.panels.words import quantile, rate

_QUEUES = Row(
    "Queues",
    (
        Panel(
            "Waiting",
            "Tasks for actors (generate), groups for evaluators (grade), for the learner (ready_train, ready_eval).",
            (Target("sum by (queue) (zeroq_broker_queue_depth)", "{{queue}}"),),
        ),
        Panel(
            "Bytes waiting",
            "Payload in the broker's memory: prompts, specifications, tokens, log-probabilities, texts.",
            (Target("sum by (queue) (zeroq_broker_queue_bytes)", "{{queue}}"),),
            "bytes",
            "stacked",
        ),
        Panel(
            "Time in the queue",
            "Of what has left it for work: median and p99.",
            (
                Target(quantile(0.5, "zeroq_broker_queue_wait_seconds", "queue", "5m"), "{{queue}} p50"),
                Target(quantile(0.99, "zeroq_broker_queue_wait_seconds", "queue", "5m"), "{{queue}} p99"),
            ),
            "seconds",
        ),
        Panel(
            "Outstanding over its limit",
            "Tasks admitted and not finished, as a share of what may be. Train tasks near one are normal: the learner "
            "feeds as long as it has credit. One for long with the learner starved: work is stuck.",
            (
                Target(
                    "sum by (purpose) (zeroq_broker_tasks_outstanding) / sum by (purpose) (zeroq_broker_tasks_limit)",
                    "{{purpose}}",
                ),
            ),
            "ratio",
        ),
        Panel(
            "Long polls waiting",
            "Requests that wait for work. Some on generate or grade: actors or evaluators are idle. On train: the "
            "learner starves.",
            (Target("sum by (line) (zeroq_broker_waiting_requests)", "{{line}}"),),
        ),
        Panel(
            "Held by the learner",
            "Groups that the learner took and has not released.",
            (Target("sum(zeroq_broker_groups_held)", "groups"),),
        ),
        Panel(
            "Oldest waiting",
            "How long the task that has waited longest for a lease has waited.",
            (Target("max by (kind) (zeroq_broker_oldest_waiting_seconds)", "{{kind}}"),),
            "seconds",
        ),
        Panel(
            "What the learner waits for",
            "Share of the time that its requests for groups waited: for grading, for actors none of which was idle, "
            "for anything else.",
            (Target(rate("zeroq_broker_learner_waiting_seconds_total", "cause", "1m"), "{{cause}}"),),
            "ratio",
            "stacked",
        ),
    ),
)

_GROUPS = Row(
    "Groups and tasks",
    (
        Panel(
            "Groups per second",
            "By how far they came.",
            (
                Target(rate("zeroq_broker_groups_total", "stage"), "{{stage}}"),
                Target(rate("zeroq_broker_tasks_admitted_total"), "admitted"),
            ),
            "per_second",
        ),
        Panel(
            "Discarded per second",
            "swept: too old at a publish. retried: given back by the learner. duplicated: sent twice. invalid: broke a "
            "bound of the wire.",
            (Target(rate("zeroq_broker_groups_discarded_total", "cause"), "{{cause}}"),),
            "per_second",
        ),
        Panel(
            "Attempts failed, tasks given up",
            "Since the broker started.",
            (
                Target("sum(zeroq_broker_attempts_failed_total)", "attempts failed"),
                Target("sum(zeroq_broker_tasks_dead_lettered_total)", "tasks given up"),
            ),
        ),
        Panel(
            "Staleness when handed out",
            "Publishes between a group's oldest token and the take: median and p99.",
            (
                Target(quantile(0.5, "zeroq_broker_group_staleness_publishes", window="5m"), "p50"),
                Target(quantile(0.99, "zeroq_broker_group_staleness_publishes", window="5m"), "p99"),
            ),
            "number",
        ),
        Panel(
            "Accepted tokens",
            "Tokens of accepted groups a second.",
            (Target(rate("zeroq_broker_tokens_generated_total"), "tokens"),),
            "per_second",
        ),
        Panel(
            "Policy version",
            "Published last. The learner's own count runs ahead while a publish is under way.",
            (
                Target("max(zeroq_broker_policy_version)", "broker"),
                Target("max(zeroq_learner_policy_version)", "learner", row="version"),
            ),
            "version",
        ),
    ),
)

_LEASES = Row(
    "Leases",
    (
        Panel("Active", "Leases running now.", (Target("sum by (kind) (zeroq_broker_leases_active)", "{{kind}}"),)),
        Panel(
            "Granted and ended per second",
            "Ended by outcome; only submitted ones bring a result.",
            (
                Target(rate("zeroq_broker_leases_granted_total", "kind"), "{{kind}} granted"),
                Target(rate("zeroq_broker_leases_ended_total", "kind, outcome"), "{{kind}} {{outcome}}"),
            ),
            "per_second",
        ),
        Panel(
            "From grant to result",
            "Time to generate or to grade a group, median and p99.",
            (
                Target(quantile(0.5, "zeroq_broker_lease_seconds", "kind", "5m"), "{{kind}} p50"),
                Target(quantile(0.99, "zeroq_broker_lease_seconds", "kind", "5m"), "{{kind}} p99"),
            ),
            "seconds",
        ),
    ),
)

_SERVER = Row(
    "Server",
    (
        Panel(
            "One round of the loop",
            "Drain what has arrived, answer, expire leases: an upper bound of what the broker adds to a message's "
            "latency. p99 above 0.1 s: the broker is overloaded.",
            (
                Target(quantile(0.5, "zeroq_broker_round_seconds"), "p50"),
                Target(quantile(0.99, "zeroq_broker_round_seconds"), "p99"),
            ),
            "seconds",
        ),
        Panel(
            "Refused and unreadable",
            "Requests that the state machine refused, by code; messages that broke the wire contract; replies whose "
            "receiver was gone. Per second.",
            (
                Target(rate("zeroq_broker_requests_refused_total", "code"), "{{code}}"),
                Target(rate("zeroq_broker_messages_undecodable_total"), "undecodable"),
                Target(rate("zeroq_broker_replies_undeliverable_total"), "undeliverable"),
            ),
            "per_second",
        ),
        Panel(
            "Connections refused by CURVE",
            "Since the broker started, by socket and cause. Any at all: a process with the wrong keys, or somebody who "
            "should not be there.",
            (Target("sum by (socket, cause) (zeroq_broker_auth_failures_total)", "{{socket}} {{cause}}"),),
            thresholds=bad_above(1, 10),
        ),
        Panel(
            "Peers",
            "Heard of within the last minute, by role. draining: they get no new leases because they are to go.",
            (
                Target("sum by (role) (zeroq_broker_peers)", "{{role}}"),
                Target("sum(zeroq_broker_peers_draining)", "draining"),
            ),
        ),
        Panel(
            "Actors by weights",
            "current may sample; stale hold a version older than allowed; joining hold none yet.",
            (Target("sum by (state) (zeroq_broker_actors)", "{{state}}"),),
            kind="stacked",
        ),
        Panel(
            "Learner's incarnations",
            "How often a learner has registered; every restart counts.",
            (Target("sum(zeroq_broker_learner_starts_total)", "starts"),),
        ),
    ),
)

BROKER = Board(
    "broker",
    "Broker",
    "Queues, groups by outcome, leases, latency of the loop, refusals and peers.",
    (_QUEUES, _GROUPS, _LEASES, _SERVER),
)
