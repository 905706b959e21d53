"""Starts one process of a run so that it cannot outlive the launcher: `child.py LAUNCHER_PID CORES COMMAND...`.

A separate program, and not a `preexec_fn`, because the launcher has threads: code between fork and exec may deadlock
there. It sets the parent-death signal and the core affinity, both of which survive exec, and becomes the command.
Uses the standard library only, and nothing of ours, to start within milliseconds. CORES: `0,2`, or `-` for all.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set up this process, then become the command."""
    launcher, cores, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit("cannot set the parent-death signal")
    if os.getppid() != launcher:  # it died before the call above
        sys.exit(1)
    if cores != "-":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
