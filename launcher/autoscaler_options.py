"""Owns the command line of `zeroq autoscaler`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.cli import Process

_DESCRIPTION = "Change the number of evaluators and actors on Kubernetes, by the broker's status (docs/autoscaling.md)."

_EXAMPLES = """\
Limits and pace are keys of the section autoscaler of the configuration. Several may run: the Lease zeroq-autoscaler
says which of them acts. A local run needs no such process: autoscaler.enabled=true.

examples:

  zeroq autoscaler --run-dir /var/lib/zeroq/run --config /etc/zeroq/config.yaml --name $POD_NAME --keep-running
      as deploy/k8s/25-autoscaler.yaml has it
  zeroq autoscaler --run-dir d --config k8s.yaml --kubeconfig-context '' --dry-run \\
      broker.address=127.0.0.1 security.keys=K
      from a laptop, through kubectl port-forward to the broker's port 7604, with the keys of role monitor in folder K:
      what would it do?"""


def add_parser(commands: Any) -> None:
    """Add the command to the sub-parsers of `zeroq`."""
    command = commands.add_parser(
        "autoscaler",
        help="scale evaluators and actors on Kubernetes",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="directory of this process")
    command.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: DIR/config.yaml)")
    command.add_argument("--name", default="autoscaler", help="this candidate's name in the Lease: the pod's")
    command.add_argument("--keep-running", action="store_true", help="outlive the parent process (containers)")
    command.add_argument("--check", action="store_true", help="verify what can be verified, start nothing; exit 0 or 2")
    command.add_argument("--dry-run", action="store_true", help="decide and tell, change nothing, need no Lease")
    command.add_argument(
        "--kubeconfig-context", metavar="NAME", help="use the kubeconfig and this context ('' for the current one) "
        "instead of the pod's service account"
    )  # fmt: skip
    command.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")


def run_from_options(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    from common.cli import main
    from launcher.autoscaler.loop import run

    context = options.kubeconfig_context
    work = partial(run, dry_run=options.dry_run, context=context or None, in_cluster=context is None)
    return main("autoscaler", work, _DESCRIPTION, check=check, arguments=options)


def check(process: Process) -> None:
    """What --check verifies: the broker can be reached by name, and the keys will do."""
    from common.keys import check_keys
    from launcher.autoscaler.loop import require_address

    require_address(process.config)
    check_keys(process.config, "monitor")
