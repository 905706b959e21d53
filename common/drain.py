"""`python -m common.drain`: have the actor or evaluator of this container finish what it has, before it is stopped.

Kubernetes runs it as the hook that comes before SIGTERM (`preStop`). At SIGTERM leases go back at once, which loses
nothing but does the work again elsewhere; here no new ones are taken, and those in hand are finished:

    hook --SIGUSR1--> process 1 (tini) --> actor or evaluator: no new leases
      ^                                         |
      +------- /metrics: groups running --------+   until there are none, or time is up

Ends with 0 however it went: what is still in hand then goes back at SIGTERM.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence

from common.errors import EXIT_OK

_RUNNING = re.compile(r"^zeroq_(?:actor|evaluator)_groups_running (\S+)$", re.MULTILINE)
UNKNOWN = -1
_ASK_TIMEOUT_S = 3.0
_EVERY_S = 0.25
_QUIET_S = 3.0
"""None in hand for so long: a request for work that was under way when the signal came has been answered by then."""


def groups_running(url: str) -> int | None:
    """Groups in hand by the process's own metrics; None if nobody listens there any more, UNKNOWN if it gives no
    answer: a process whose cores are busy with its last groups is slow, not gone."""
    try:
        with urllib.request.urlopen(url, timeout=_ASK_TIMEOUT_S) as answer:
            text = answer.read().decode()
        return sum(int(float(number)) for number in _RUNNING.findall(text))
    except (OSError, http.client.HTTPException, ValueError) as error:
        refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
        return None if refused else UNKNOWN


def wait_until_idle(ask: Callable[[], int | None], within_s: float) -> str:
    """Wait until nothing was in hand for a while, the process is gone, or `within_s` are over; says which it was."""
    began = time.monotonic()
    idle_since: float | None = None
    while True:
        running, now = ask(), time.monotonic()
        if running is None:
            return "the process is gone"
        if running:
            idle_since = None
        elif idle_since is None:
            idle_since = now
        elif now - idle_since >= _QUIET_S:
            return f"nothing in hand after {now - began:.1f} s"
        if now - began >= within_s:
            some = "nobody knows how many" if running == UNKNOWN else running
            return f"{some} groups in hand after {within_s:.0f} s; they go back"
        time.sleep(_EVERY_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Signal, wait, say how it went; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m common.drain", description="Finish what is in hand, take no more.")
    parser.add_argument("--within", type=float, required=True, metavar="SECONDS", help="how long to wait at most")
    parser.add_argument("--port", type=int, default=9400, help="the process's metrics port (default 9400)")
    parser.add_argument("--pid", type=int, default=1, help="process to signal (default: the container's first)")
    options = parser.parse_args(arguments)
    try:
        os.kill(options.pid, signal.SIGUSR1)
    except OSError as error:
        print(f"drain: process {options.pid}: {error.strerror}", file=sys.stderr)
        return EXIT_OK
    url = f"http://127.0.0.1:{options.port}/metrics"
    print(f"drain: {wait_until_idle(lambda: groups_running(url), options.within)}", flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
