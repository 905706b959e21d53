"""Which of several autoscalers acts: the one that holds a Lease object, as Kubernetes's own controllers do it.

    get the Lease ── ours, free or expired ──> replace it ──> leader     (who is second gets a Conflict)
                  └─ another's ──> wait

Only monotonic clocks are compared: a Lease has expired for us when we have *seen* it unchanged for its whole duration,
so clocks that differ between machines do no harm. The holder stops acting `renew_deadline_s` after the last renewal
that it *sent*; with a request's own time-out that is still before anybody else can take over. So two never act at
once, and a loser takes over at the latest `duration_s + 2 * retry_s` after the holder's last renewal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from launcher.k8s.client import REQUEST_TIMEOUT_S
from launcher.k8s.errors import Conflict

DURATION_S = 15.0
RENEW_DEADLINE_S = 9.0
RETRY_S = 2.0


class LeaseApi(Protocol):
    """What of a cluster an election needs."""

    def lease(self, name: str) -> dict[str, Any]:
        """The Lease object."""

    def replace_lease(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Write it back; Conflict if somebody else did meanwhile."""


class Election:
    """One candidate. Not thread-safe; call `step` at least every `retry_s`."""

    def __init__(
        self,
        api: LeaseApi,
        name: str,
        identity: str,
        *,
        duration_s: float = DURATION_S,
        renew_deadline_s: float = RENEW_DEADLINE_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not retry_s < renew_deadline_s <= duration_s - REQUEST_TIMEOUT_S:
            raise ValueError("retry < renew deadline <= duration - request time-out must hold: two would act at once")
        self._api, self._name, self._identity = api, name, identity
        self._duration_s, self._renew_deadline_s, self._retry_s = duration_s, renew_deadline_s, retry_s
        self._clock = clock
        self._seen: dict[str, Any] | None = None
        self._seen_at = 0.0
        self._next_attempt = float("-inf")
        self._leads_until = float("-inf")
        self.holder = ""

    @property
    def leads(self) -> bool:
        """Whether this candidate may act right now."""
        return self._clock() < self._leads_until

    @property
    def due(self) -> bool:
        """Whether it is time to try to become or stay leader."""
        return self._clock() >= self._next_attempt

    def step(self) -> bool:
        """Try to become or stay leader if it is time for that; `leads`. Errors of the API server pass through; they
        cost the leadership only if they last."""
        if self.due:
            self._next_attempt = self._clock() + self._retry_s
            self._attempt()
        return self.leads

    def resign(self) -> None:
        """Leave the Lease free, so that another takes over at once. Errors pass through."""
        if not self.leads:
            return
        self._leads_until = float("-inf")
        lease = self._api.lease(self._name)
        if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
            lease["spec"] = {**lease["spec"], "holderIdentity": "", "renewTime": _timestamp()}
            self._api.replace_lease(self._name, lease)

    def _attempt(self) -> None:
        lease = self._api.lease(self._name)
        spec = lease.get("spec") or {}
        now = self._clock()
        if spec != self._seen:
            self._seen, self._seen_at = spec, now
        self.holder = str(spec.get("holderIdentity") or "")
        expires_at = self._seen_at + float(spec.get("leaseDurationSeconds") or self._duration_s)
        if self.holder not in ("", self._identity) and now < expires_at:
            self._leads_until = float("-inf")
            return
        lease["spec"] = self._claim(spec)
        sent_at = self._clock()
        try:
            written = self._api.replace_lease(self._name, lease)
        except Conflict:  # somebody was quicker; the next attempt sees who
            self._leads_until = float("-inf")
            return
        self._seen, self._seen_at = written.get("spec") or lease["spec"], sent_at
        self.holder = self._identity
        self._leads_until = sent_at + self._renew_deadline_s

    def _claim(self, spec: dict[str, Any]) -> dict[str, Any]:
        moment, again = _timestamp(), spec.get("holderIdentity") == self._identity
        return {
            **spec,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(self._duration_s),
            "renewTime": moment,
            "acquireTime": spec.get("acquireTime", moment) if again else moment,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not again),
        }


def _timestamp() -> str:
    """Kubernetes's MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
