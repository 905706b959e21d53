"""What a cluster has and a local run mostly has not: the autoscaler, and GPUs as NVIDIA's dcgm-exporter sees them."""

from __future__ import annotations

from launcher.panels.model import Board, Panel, Row, Target, bad_above
from launcher.panels.words import RATE

AUTOSCALER = Board(
    "autoscaler",
    "Autoscaler",
    "Desired and actual replicas, decisions with their reasons, and the figures that they are made from.",
    (
        Row(
            "Replicas",
            (
                Panel(
                    "Evaluators",
                    "Desired, actual and the floor.",
                    (
                        Target('max(zeroq_autoscaler_desired{role="evaluator"})', "desired"),
                        Target('max(zeroq_autoscaler_actual{role="evaluator"})', "actual"),
                        Target('max(zeroq_autoscaler_floor{role="evaluator"})', "floor"),
                    ),
                    width=12,
                ),
                Panel(
                    "Actors",
                    "Desired, actual and the floor.",
                    (
                        Target('max(zeroq_autoscaler_desired{role="actor"})', "desired"),
                        Target('max(zeroq_autoscaler_actual{role="actor"})', "actual"),
                        Target('max(zeroq_autoscaler_floor{role="actor"})', "floor"),
                    ),
                    width=12,
                ),
                Panel(
                    "Decisions",
                    "In the last ten minutes, by role, direction and reason.",
                    (
                        Target(
                            "sum by (role, direction, reason) (increase(zeroq_autoscaler_decisions_total[10m]))",
                            "{{role}} {{direction}}: {{reason}}",
                        ),
                    ),
                    width=12,
                ),
                Panel(
                    "Leader",
                    "1 on the replica that decides. The sum must be one; zero for longer than a lease: nobody decides.",
                    (Target("max by (instance) (zeroq_autoscaler_leader)", "{{instance}}"),),
                    width=6,
                    high=1.0,
                ),
                Panel(
                    "Rounds given up",
                    "Since the start, by cause; they are tried again. forbidden: a rule of its Role is missing.",
                    (Target("sum by (cause) (zeroq_autoscaler_errors_total)", "{{cause}}"),),
                    width=6,
                ),
            ),
        ),
        Row(
            "What it looks at",
            (
                Panel(
                    "Grading backlog",
                    "Groups that wait for an evaluator or are being graded.",
                    (
                        Target('sum(zeroq_broker_queue_depth{queue="grade"})', "waiting"),
                        Target('sum(zeroq_broker_leases_active{kind="grade"})', "being graded"),
                    ),
                    kind="stacked",
                ),
                Panel(
                    "What the learner waits for",
                    "Share of the time that its requests waited. actors: more are added for this, never for GPU use.",
                    (
                        Target(
                            "sum by (cause) (rate(zeroq_broker_learner_waiting_seconds_total[1m]))",
                            "{{cause}}",
                        ),
                    ),
                    "ratio",
                    "stacked",
                    high=1.0,
                ),
                Panel(
                    "Outstanding over credit",
                    "Train tasks. At one, more actors cannot help: the staleness bound is the ceiling.",
                    (
                        Target(
                            'sum(zeroq_broker_tasks_outstanding{purpose="train"}) '
                            '/ sum(zeroq_broker_tasks_limit{purpose="train"})',
                            "train",
                        ),
                    ),
                    "ratio",
                ),
            ),
        ),
    ),
    in_cluster_only=True,
)


def _by_gpu(metric: str) -> tuple[Target, ...]:
    return (Target(f"max by (Hostname, gpu) ({metric})", "{{Hostname}} GPU {{gpu}}"),)


GPUS = Board(
    "gpus",
    "GPUs",
    "As NVIDIA's dcgm-exporter reports them. It is not part of zeroq: the GPU operator brings it.",
    (
        Row(
            "Use",
            (
                Panel(
                    "Tensor cores active",
                    "Share of the cycles. The figure that goes with MFU; utilisation only says that some kernel ran.",
                    _by_gpu("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),
                    "ratio",
                    high=1.0,
                ),
                Panel(
                    "Utilisation",
                    "Share of the time in which any kernel ran.",
                    (Target("max by (Hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "{{Hostname}} GPU {{gpu}}"),),
                    "ratio",
                    high=1.0,
                ),
                Panel(
                    "Memory bandwidth in use",
                    "Share of the cycles in which device memory is read or written. Decoding is bound by it.",
                    _by_gpu("DCGM_FI_PROF_DRAM_ACTIVE"),
                    "ratio",
                    high=1.0,
                ),
                Panel(
                    "Memory",
                    "Bytes of the frame buffer in use.",
                    (Target("max by (Hostname, gpu) (DCGM_FI_DEV_FB_USED) * 1048576", "{{Hostname}} GPU {{gpu}}"),),
                    "bytes",
                ),
                Panel(
                    "NVLink",
                    "Bytes sent per second: FSDP and the weight broadcast. The exporter's own list of counters leaves "
                    "this one out: add DCGM_FI_PROF_NVLINK_TX_BYTES to it.",
                    _by_gpu("DCGM_FI_PROF_NVLINK_TX_BYTES"),
                    "bytes_per_second",
                ),
                Panel(
                    "PCIe",
                    "Bytes sent per second: staged weights, checkpoints.",
                    _by_gpu("DCGM_FI_PROF_PCIE_TX_BYTES"),
                    "bytes_per_second",
                ),
            ),
        ),
        Row(
            "Health",
            (
                Panel(
                    "Temperature",
                    "Degrees Celsius.",
                    _by_gpu("DCGM_FI_DEV_GPU_TEMP"),
                    "number",
                    thresholds=bad_above(80, 90),
                ),
                Panel("Power", "Watts.", _by_gpu("DCGM_FI_DEV_POWER_USAGE"), "number"),
                Panel(
                    "XID errors",
                    "Code of the last one; 0: none. Codes 48, 63, 64, 74, 79 and 94 and 95 call for another node.",
                    _by_gpu("DCGM_FI_DEV_XID_ERRORS"),
                    "number",
                    thresholds=bad_above(1, 1),
                ),
                Panel(
                    "Energy",
                    "Watts drawn, from the energy counter; agrees with power where nothing is throttled.",
                    (
                        Target(
                            f"sum by (Hostname) (rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION[{RATE}])) / 1000",
                            "{{Hostname}}",
                        ),
                    ),
                    "number",
                ),
            ),
        ),
    ),
    in_cluster_only=True,
)
