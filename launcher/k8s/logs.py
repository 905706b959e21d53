"""Owns `zeroq logs ROLE`: the logs of all pods of a role, and of pods that come later.

With --follow each pod has a thread that reads its stream. A stream that breaks is taken up again at the last line's
time; lines of that very moment that were shown already are left out. Pods are listed again every few seconds.

A pod without a log (it has not started, or is gone by now, or with --previous did not restart) is named on standard
error and costs the others nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import datetime
from typing import IO

from common.errors import EXIT_OK, UserError
from launcher.k8s.client import Cluster, LogStream
from launcher.k8s.errors import ClusterError, Forbidden, Missing, Rejected, Unavailable
from launcher.k8s.names import COMPONENT_LABEL, LOGGING_ROLES

LIST_EVERY_S = 5.0
AGAIN_AFTER_S = 2.0
LOOK_EVERY_S = 0.25
END_WITHIN_S = 2.0
MAX_STREAMS = 64


def print_logs(
    cluster: Cluster, role: str, *, follow: bool, tail: int, previous: bool, stop: threading.Event | None = None
) -> int:
    """Print them; returns the exit code. UserError for an unknown role and one without pods or logs, ClusterError else.

    `stop` ends following (Ctrl-C does, too), and so does a reader that has seen enough (`| head`).
    """
    if role not in LOGGING_ROLES:
        raise UserError(f"{role}: no such role; there are {', '.join(LOGGING_ROLES)}")
    if tail < 0:
        raise UserError(f"--tail {tail}: must not be negative")
    if follow and previous:
        raise UserError("--previous: logs of containers that have ended do not grow; leave out --follow")
    pods = pod_names(cluster, role)
    if not pods and not follow:
        raise UserError(f"namespace {cluster.namespace}: there are no pods of role {role}; see zeroq status --k8s")
    out = Lines(sys.stdout, prefix=len(pods) != 1 or follow)
    try:
        if follow:
            Follower(cluster, role, out, tail).run(stop or threading.Event())
        else:
            print_each(cluster, role, pods, out, tail, previous)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is to be said at exit, either
    finally:
        out.end()
    return EXIT_OK


def print_each(cluster: Cluster, role: str, pods: list[str], out: Lines, tail: int, previous: bool) -> None:
    """One pod's log after the other. UserError if none of them has one."""
    without: list[ClusterError] = []
    for pod in pods:
        try:
            for line in cluster.pod_log(pod, container=role, tail_lines=tail, previous=previous):
                out.show(pod, line)
        except (Rejected, Missing) as error:
            without.append(error)
    if len(without) == len(pods):
        raise without[0]
    for missing in without:
        print(f"left out: {missing}", file=sys.stderr)


def pod_names(cluster: Cluster, role: str) -> list[str]:
    """Pods of a role, by name."""
    return sorted(str(pod["metadata"]["name"]) for pod in cluster.pods(f"{COMPONENT_LABEL}={role}"))


class Lines:
    """Writes whole lines of several threads. BrokenPipeError once nobody reads any more."""

    def __init__(self, stream: IO[str], *, prefix: bool) -> None:
        self._stream, self._prefix = stream, prefix
        self._lock = threading.Lock()

    def show(self, pod: str, line: bytes) -> None:
        """One line of a pod."""
        text = line.decode("utf-8", errors="replace")
        with self._lock:
            self._stream.write(f"{pod}: {text}\n" if self._prefix else f"{text}\n")
            self._stream.flush()

    def note(self, text: str) -> None:
        """One line on standard error."""
        with self._lock:
            print(text, file=sys.stderr)

    def end(self) -> None:
        """Nothing is written from now on: the interpreter aborts if, at its end, a thread is within a write. (A reader
        that stands still may hold one up.)"""
        self._lock.acquire(timeout=END_WITHIN_S)


class Follower:
    """One thread for each pod, as long as there is one."""

    def __init__(self, cluster: Cluster, role: str, out: Lines, tail: int) -> None:
        self._cluster, self._role, self._out, self._tail = cluster, role, out, tail
        self._threads: dict[str, threading.Thread] = {}
        self._streams: dict[str, LogStream] = {}
        self._fault: ClusterError | BrokenPipeError | None = None
        self._too_many = False

    def run(self, stop: threading.Event) -> None:
        """Until `stop`, or until the API server says that we may not read logs; no thread goes on after that."""
        try:
            self._watch(stop)
        finally:
            stop.set()
            deadline = time.monotonic() + END_WITHIN_S
            for stream in list(self._streams.values()):
                stream.break_off()
            for thread in self._threads.values():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _watch(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._fault is not None:
                raise self._fault
            try:
                self._start(pod_names(self._cluster, self._role), stop)
            except Unavailable as error:
                self._out.note(f"{error}; trying again")
            until = time.monotonic() + (LIST_EVERY_S if self._threads else AGAIN_AFTER_S)
            while self._fault is None and not stop.is_set() and (left_s := until - time.monotonic()) > 0:
                stop.wait(min(left_s, LOOK_EVERY_S))

    def _start(self, pods: list[str], stop: threading.Event) -> None:
        self._threads = {pod: thread for pod, thread in self._threads.items() if thread.is_alive()}
        for pod in self._streams.keys() - self._threads.keys():
            self._streams.pop(pod)
        if len(pods) > MAX_STREAMS and not self._too_many:
            self._too_many = True
            self._out.note(f"{len(pods)} pods: no more than {MAX_STREAMS} are followed at once")
        for pod in [pod for pod in pods if pod not in self._threads][: MAX_STREAMS - len(self._threads)]:
            thread = threading.Thread(target=self._follow, args=(pod, stop), name=f"logs-{pod}", daemon=True)
            self._threads[pod] = thread
            thread.start()

    def _follow(self, pod: str, stop: threading.Event) -> None:
        """Read one pod's log until the pod is gone; says what is wrong when that changes."""
        place, said = Place(), ""
        while not stop.is_set():
            since_s = place.since_s()
            options = {"tail_lines": self._tail} if since_s is None else {"since_seconds": since_s}
            try:
                stream = self._cluster.pod_log(pod, container=self._role, follow=True, timestamps=True, **options)
                self._streams[pod] = stream
                for line in () if stop.is_set() else stream:
                    if (text := place.take(line)) is not None:
                        self._out.show(pod, text)
                    said = ""
                    if stop.is_set():
                        return
            except Missing:
                return
            except (Forbidden, BrokenPipeError) as error:
                self._fault = error
                return
            except ClusterError as error:
                if str(error) != said and not stop.is_set():
                    said = str(error)
                    self._out.note(f"{error}; taken up again")
            stop.wait(AGAIN_AFTER_S)


class Place:
    """How far a log with time stamps has been shown."""

    def __init__(self) -> None:
        self._last = ""
        self._heard_at = 0.0
        self._at_last: set[bytes] = set()

    def take(self, line: bytes) -> bytes | None:
        """The text of a stamped line; None if it was shown before."""
        stamp, _, text = line.partition(b" ")
        moment = stamp.decode("ascii", errors="replace")
        if not _is_moment(moment):
            return line
        moment = _padded(moment)
        if moment < self._last or (moment == self._last and text in self._at_last):
            return None
        if moment > self._last:
            self._at_last.clear()
        self._last = moment
        self._heard_at = time.monotonic()
        self._at_last.add(text)
        return text

    def since_s(self) -> int | None:
        """How many seconds to go back when the stream is taken up again; None before the first line.

        Seconds of our own clock since the last line came: ours and the node's may differ.
        """
        return None if not self._last else int(time.monotonic() - self._heard_at) + 5


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text[:19])
    except ValueError:
        return False
    return text.endswith("Z") or "+" in text


def _padded(moment: str) -> str:
    """RFC 3339 with nanoseconds of full width, so that text compares as time (Kubernetes leaves trailing zeros out)."""
    seconds, _, fraction = moment.removesuffix("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
