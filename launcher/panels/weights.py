"""Weights: publishes by phase, epochs, members, what actors received."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target, bad_above
from launcher.panels.words import SPARSE, mean, quantile, rate

_PUBLISH = Row(
    "Publishing",
    (
        Panel(
            "Publish",
            "From staged weights to actors that sample from them: median and p99.",
            (
                Target(quantile(0.5, "zeroq_weights_publish_seconds", window=SPARSE), "p50"),
                Target(quantile(0.99, "zeroq_weights_publish_seconds", window=SPARSE), "p99"),
            ),
            "seconds",
        ),
        Panel(
            "Mean seconds by phase",
            "stage: gather, copy, digest (training waits). propose: who takes part. transfer: the bytes. commit: "
            "actors load. announce: the broker is told.",
            (Target(mean("zeroq_weights_publish_phase_seconds", "phase", SPARSE), "{{phase}}"),),
            "seconds",
            "stacked",
        ),
        Panel(
            "Publish under way",
            "Its age, 0 between two, and the time by which it has ended, well or not.",
            (
                Target("max(zeroq_weights_publish_in_progress_seconds)", "age"),
                Target("max(zeroq_weights_publish_bound_seconds)", "bound"),
            ),
            "seconds",
        ),
        Panel(
            "Version",
            "Newest published, and the versions that actors serve: newest and oldest.",
            (
                Target("max(zeroq_weights_published_version)", "published", row="version"),
                Target("max(zeroq_actor_policy_version)", "newest actor"),
                Target("min(zeroq_actor_policy_version)", "oldest actor"),
            ),
            "version",
            low=None,
        ),
        Panel(
            "Bytes sent per second",
            "Weights that reached actors, by way.",
            (Target(rate("zeroq_weights_sent_bytes_total", "way", "5m"), "{{way}}"),),
            "bytes_per_second",
            "stacked",
        ),
        Panel("Size of a version", "Bytes.", (Target("max(zeroq_weights_size_bytes)", "size"),), "bytes"),
    ),
)

_MEMBERS = Row(
    "Members and epochs",
    (
        Panel(
            "Members",
            "Actors known to the publisher: with the newest version, an older one, none.",
            (Target("sum by (state) (zeroq_weights_members)", "{{state}}"),),
            kind="stacked",
        ),
        Panel(
            "Epochs",
            "Communicators begun, by why the one before would not do. They grow with membership, not with publishes.",
            (Target("sum by (cause) (zeroq_weights_epochs_total)", "{{cause}}"),),
        ),
        Panel(
            "Aborted broadcasts, excluded actors",
            "Since the start. Each broadcast is tried once more with those who are left.",
            (
                Target("sum by (cause) (zeroq_weights_broadcasts_aborted_total)", "aborted: {{cause}}"),
                Target("sum(zeroq_weights_actors_excluded_total)", "actors excluded"),
            ),
            thresholds=bad_above(1, 10),
        ),
        Panel(
            "Connections refused by CURVE",
            "By the weights socket, by cause.",
            (Target("sum by (cause) (zeroq_weights_auth_failures_total)", "{{cause}}"),),
            thresholds=bad_above(1, 10),
        ),
    ),
)

_ACTORS = Row(
    "On the actors",
    (
        Panel(
            "Pause",
            "How long sampling stood still for an update: median and p99.",
            (
                Target(quantile(0.5, "zeroq_weights_pause_seconds", window=SPARSE), "p50"),
                Target(quantile(0.99, "zeroq_weights_pause_seconds", window=SPARSE), "p99"),
            ),
            "seconds",
        ),
        Panel(
            "Versions loaded",
            "Since the start, by way. Pulls are for late joiners.",
            (Target("sum by (way) (zeroq_weights_updates_total)", "{{way}}"),),
        ),
        Panel(
            "Failed updates",
            "Since the start, by stage: did not come, damaged, could not be loaded.",
            (Target("sum by (stage) (zeroq_weights_update_failures_total)", "{{stage}}"),),
            thresholds=bad_above(1, 10),
        ),
        Panel(
            "Bytes received per second",
            "By actor and way.",
            (Target(rate("zeroq_weights_received_bytes_total", "instance, way", "5m"), "{{instance}} {{way}}"),),
            "bytes_per_second",
        ),
    ),
)

WEIGHTS = Board(
    "weights",
    "Weights",
    "Publishes by phase, communicators, members by state, and what arrived at the actors.",
    (_PUBLISH, _MEMBERS, _ACTORS),
)
