"""Tier 3 where the kernel around the sandbox lacks what gVisor lacks: Landlock, mount_setattr, cgroup namespaces.

A seccomp filter on the evaluator's side takes these away, so that the real probes say what holds without them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evaluator.sandbox import capabilities

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0

PROBE = """
import errno, sys
import pyseccomp
from evaluator.sandbox.capabilities import require
from evaluator.sandbox.jail import Jail, JailOptions
from evaluator.sandbox import InfraError

tier, *gone = sys.argv[1:]
rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
if "landlock" in gone:
    for name in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"):
        rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), name)
if "mount_setattr" in gone:
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "mount_setattr")
if "cgroup" in gone:
    flag = 0x02000000
    rules.add_rule(pyseccomp.ERRNO(errno.EINVAL), "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
rules.load()
try:
    with Jail(JailOptions(tier=int(tier), use_cgroups=False)) as jail:
        print(require(jail, int(tier)).summary())
except InfraError as error:
    print("refused:", error)
"""


def probe(tier: int, *gone: str) -> str:
    """What the capabilities say at `tier` on a kernel without `gone`."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tier), *gone],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "ZEROQ_OUTER_SANDBOX": "microvm"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_tier_3_holds_without_what_gvisor_lacks() -> None:
    said = probe(3, "landlock", "mount_setattr", "cgroup")
    assert said.startswith("tier 3; ")
    assert "landlock: none here" in said


@pytest.mark.parametrize(("gone", "named"), [("landlock", "landlock"), ("cgroup", "namespaces")])
def test_on_the_machines_own_kernel_nothing_may_lack(gone: str, named: str) -> None:
    said = probe(2, gone)
    assert said.startswith("refused: ")
    assert named in said


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("<6>[   0.000000] Starting gVisor...\n<6>[   0.118275] Committing treasure map to memory...\n", "gvisor"),
        ("<5>[    0.000000] Linux version 6.1.0 (gcc)\n<6>[    9.1] runsc: Starting gVisor...\n", None),
        ("", None),
    ],
)
def test_gvisor_is_known_by_its_kernel_log(log: str, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if "gvisor" in Path("/proc/version").read_text().lower():
        pytest.skip("this machine is one")
    monkeypatch.delenv("ZEROQ_OUTER_SANDBOX", raising=False)
    monkeypatch.setattr(capabilities, "_kernel_log", lambda: log)
    assert capabilities.outer_sandbox() == found


def test_the_kernel_log_can_be_asked_for_everywhere() -> None:
    assert isinstance(capabilities._kernel_log(), str)
