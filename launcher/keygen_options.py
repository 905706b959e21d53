"""Owns `zeroq keygen`: keys of the wire in a folder, or as Secrets for kubectl."""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import EXIT_OK, UserError

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def add_parser(commands: Any) -> None:
    """Add the command to the sub-parsers of `zeroq`."""
    command = commands.add_parser(
        "keygen",
        help="make keys for processes on several machines",
        description="""\
Make a pair of CURVE keys for each role: broker, learner, actor, evaluator, monitor. A run on one machine makes its own;
keys are needed where processes do not share a run directory. Give each machine only the files of its roles
(docs/security.md).""",
        epilog="""\
examples:

  zeroq keygen keys                              keys/ROLE.public and keys/ROLE.secret, for security.keys
  zeroq keygen --k8s | kubectl apply -f -        one Secret per role, zeroq-keys-ROLE, with what that role needs
  zeroq keygen keys --k8s | kubectl apply -f -   the same from the keys in a folder, which is made if it is not
  there""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="folder to make")
    command.add_argument("--k8s", action="store_true", help="print Secrets as YAML instead")
    command.add_argument("--namespace", default="zeroq", metavar="NAME", help="of the Secrets (default zeroq)")


def run_from_options(options: argparse.Namespace) -> int:
    """Make the keys; returns the exit code. UserError when the folder exists, or cannot be used."""
    from common.keys import generate, make_keys

    folder: Path | None = options.folder
    if not options.k8s:
        if folder is None:
            raise UserError("keygen: name a folder to make, or give --k8s to print Secrets")
        make_keys(folder)
        print(f"{folder}: keys for security.keys; whoever can read ROLE.secret can act as that role")
        return EXIT_OK
    if _NAMESPACE.fullmatch(options.namespace) is None:
        raise UserError(f"--namespace {options.namespace}: no name of a namespace (a-z, 0-9 and -, at most 63)")
    if folder is None:
        files: Mapping[str, bytes] = generate()
    else:
        if not folder.exists():
            make_keys(folder)
        files = read_all(folder)
    sys.stdout.write(secrets(files, options.namespace))
    return EXIT_OK


def read_all(folder: Path) -> dict[str, bytes]:
    """Contents of all key files by name; UserError unless every role's will do."""
    from common.keys import KEY_ROLES, Keys

    files: dict[str, bytes] = {}
    for role in KEY_ROLES:
        keys = Keys.load(folder, role)
        files |= {f"{role}.public": keys.public + b"\n", f"{role}.secret": keys.secret + b"\n"}
    return files


def secrets(files: Mapping[str, bytes], namespace: str) -> str:
    """One Secret per role, as YAML documents; each holds exactly the files that its role needs."""
    import yaml

    from common.keys import KEY_ROLES, files_of

    return yaml.safe_dump_all(
        [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": f"zeroq-keys-{role}",
                    "namespace": namespace,
                    "labels": {"app.kubernetes.io/part-of": "zeroq"},
                },
                "type": "Opaque",
                "data": {name: base64.b64encode(files[name]).decode("ascii") for name in files_of(role)},
            }
            for role in KEY_ROLES
        ],
        sort_keys=False,
        explicit_start=True,
    )
