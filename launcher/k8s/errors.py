"""What can go wrong between us and an API server, each as one line that names the object and the remedy.

A request is described by what a Role would have to allow (`Access`), so that a refusal can name the missing rule.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from common.errors import RunFailure, UserError, ZeroqError

_LONGEST_RETRY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Access:
    """One request, in the words of RBAC. `name` is empty for lists and creations."""

    verb: str
    resource: str
    namespace: str
    name: str = ""
    group: str = ""

    @property
    def target(self) -> str:
        """The object, for people."""
        where = f"{self.resource} in namespace {self.namespace}"
        return f"{self.resource} {self.namespace}/{self.name}" if self.name else where

    @property
    def rule(self) -> str:
        """The rule that allows it, as it stands in a Role."""
        names = f", resourceNames: [{self.name}]" if self.name else ""
        return f'{{apiGroups: ["{self.group}"], resources: [{self.resource}]{names}, verbs: [{self.verb}]}}'


class ClusterError(ZeroqError):
    """Base of them all. `cause` labels a metric."""

    cause = "unavailable"


class Forbidden(ClusterError, UserError):
    """401 or 403."""

    cause = "forbidden"


class Missing(ClusterError, UserError):
    """404."""

    cause = "missing"


class Rejected(ClusterError, UserError):
    """The server understood and refused for good (400, 413, 422): the object is wrong or a policy forbids it."""

    cause = "rejected"


class Untrusted(ClusterError, UserError):
    """TLS cannot be agreed upon: a certificate, an authority or an address in the kubeconfig is wrong. Time does not
    mend that."""


class Conflict(ClusterError, RunFailure):
    """409: somebody else changed the object meanwhile. Read it again, and decide again."""

    cause = "conflict"


class Unavailable(ClusterError, RunFailure):
    """No answer, or one that asks to come back later (429, 5xx). `retry_after_s`: what the server asked for."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


def of_response(access: Access, status: int, body: str | bytes | None, headers: Any) -> ClusterError:
    """The exception for an answer that is not 2xx."""
    said = message_of(body)
    quoted = f" (it says: {said})" if said else ""
    if status == 401:
        return Forbidden(
            f"the API server does not know who asks to {access.verb} {access.target}{quoted}; log in again, or name "
            "another context with --context"
        )
    if status == 403:
        return Forbidden(
            f"not allowed to {access.verb} {access.target}{quoted}; a Role in namespace {access.namespace} needs the "
            f"rule {access.rule}"
        )
    if status == 404:
        return Missing(
            f"{access.target} does not exist{quoted}; kubectl apply -f deploy/k8s makes it, --namespace names another "
            "namespace"
        )
    if status == 409:
        return Conflict(f"cannot {access.verb} {access.target}: it was changed meanwhile{quoted}; try again")
    if status == 429 or status >= 500:
        return Unavailable(
            f"the API server answers {status} to {access.verb} {access.target}{quoted}; try again later",
            retry_after(headers),
        )
    return Rejected(f"the API server refuses to {access.verb} {access.target} with {status}{quoted}")


def retry_after(headers: Any) -> float | None:
    """Seconds in a Retry-After header; None without one that is a number. Nobody is put off for longer than an hour."""
    value = headers.get("Retry-After") if headers is not None else None
    try:
        seconds = float(value) if value is not None else None
    except ValueError:
        return None
    return None if seconds is None or math.isnan(seconds) else min(_LONGEST_RETRY_S, max(0.0, seconds))


def message_of(body: str | bytes | None) -> str:
    """The `message` of a Status object, or the beginning of whatever came instead, in one line."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        text = str(parsed.get("message") or "")
    return " ".join(text.split())[:300]
