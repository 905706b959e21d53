"""Owns the command lines of `zeroq submit`, `zeroq status --k8s` and `zeroq logs`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from launcher.k8s.names import LOGGING_ROLES

PIPED_WIDTH = 240


def add_parsers(commands: Any) -> None:
    """Add submit and logs to the sub-parsers of `zeroq`."""
    submit = commands.add_parser(
        "submit",
        help="run a configuration on Kubernetes",
        description="""\
Verify CONFIG, write it into the ConfigMap zeroq-config, and restart what reads the keys that changed. Keys that belong
to the cluster (addresses, ports, security, metrics, autoscaler) stay as they are there unless CONFIG or key=value sets
them.""",
        epilog="""\
examples:

  zeroq submit recipes/configs/k8s.yaml --dry-run             what would change, and what would restart
  zeroq submit recipes/configs/k8s.yaml learner.lr=5e-7
  zeroq submit recipes/configs/k8s.yaml --image-tag 0.2.0     and other images for all roles""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    submit.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; see recipes/configs/")
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    submit.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    submit.add_argument("--image-tag", metavar="TAG", help="change the tag of every zeroq image, too")
    _add_where(submit)

    logs = commands.add_parser(
        "logs",
        help="logs of a role's pods on Kubernetes",
        description="""\
Print the logs of all pods of a role, each line with its pod's name if there are several. A pod that has no log (it has
not started yet, say) is named on standard error.""",
        epilog="""\
examples:

  zeroq logs learner --tail 20                 the last lines of each of the learner's pods
  zeroq logs evaluator -f | grep WARNING       what comes from now on, of pods that come later, too
  zeroq logs actor --previous                  why did containers restart?""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    logs.add_argument("role", metavar="ROLE", help=", ".join(LOGGING_ROLES))
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C, with pods that come later")
    logs.add_argument("--tail", type=int, default=100, metavar="N", help="the last N lines of each pod (default 100)")
    logs.add_argument("--previous", action="store_true", help="of the containers before their last restart")
    _add_where(logs)


def add_status_arguments(status: argparse.ArgumentParser) -> None:
    """What `zeroq status` takes beyond a run directory."""
    status.description = """\
What a local run is doing, or how it ended; with --k8s the roles of the run on Kubernetes: pods that are ready of those
wanted, image tags, what keeps pods back, which autoscaler acts, and the broker's queues."""
    status.epilog = "example: zeroq status --k8s --context lab --namespace zeroq"
    status.add_argument("--k8s", action="store_true", help="of the run on Kubernetes")
    _add_where(status)


def run_from_options(options: argparse.Namespace) -> int:
    """Run the one that was asked for; returns the exit code."""
    try:
        from launcher.k8s.client import connect
    except ModuleNotFoundError as error:
        from common.errors import UserError

        raise UserError(f"{error.name} is not installed; pip install 'zeroq[k8s]'") from None
    with connect(context=options.context, namespace=options.namespace) as cluster:
        if options.command == "submit":
            from launcher.k8s.submit import submit

            return submit(
                cluster, options.config, options.overrides, dry_run=options.dry_run, image_tag=options.image_tag
            )
        if options.command == "logs":
            from launcher.k8s.logs import print_logs

            return print_logs(
                cluster, options.role, follow=options.follow, tail=options.tail, previous=options.previous
            )
        from rich.console import Console

        from launcher.k8s.status import print_status

        # whoever reads from a pipe wants a row in one line
        wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
        return print_status(cluster, Console(width=wide))


def _add_where(command: argparse.ArgumentParser) -> None:
    command.add_argument("--namespace", metavar="NAME", help="default: zeroq")
    command.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
