"""The autoscaler's connection to the broker: its status, and telling it who is to get no more work."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Protocol

from common.client import BrokerClient
from common.errors import BrokerUnavailable
from common.keys import Keys
from common.messages import Drain, GetStatus, Header, Refused, StatusReport, WorkRole

ANSWER_WITHIN_S = 3.0

log = logging.getLogger(__name__)


class StatusSource(Protocol):
    """Where an autoscaler gets its knowledge from."""

    def status(self) -> dict[str, Any]:
        """The broker's report; BrokerUnavailable when there is none."""

    def drain(self, role: WorkRole, names: list[str], for_s: float) -> None:
        """No new leases for these processes of a role for so many seconds; 0: leases again."""


class BrokerSource:
    """Asks the monitor socket. A context manager. UserError if our key is of no use there."""

    def __init__(self, endpoint: str, name: str, keys: Keys | None) -> None:
        self._client = BrokerClient(endpoint, "monitor", name, keys=keys, resend_s=ANSWER_WITHIN_S)
        self._introduced = False

    def __enter__(self) -> BrokerSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def status(self) -> dict[str, Any]:
        """The broker's report; BrokerUnavailable when none comes in time."""
        answer = self._ask(GetStatus())
        if not isinstance(answer, StatusReport):
            raise BrokerUnavailable(f"the broker gives no status: {answer!r}")
        return answer.status

    def drain(self, role: WorkRole, names: list[str], for_s: float) -> None:
        """No new leases for these, for a while. What the broker does not hear costs some work twice, and nothing
        else."""
        try:
            answer = self._ask(Drain(role=role, names=names, for_s=for_s))
        except BrokerUnavailable as error:
            log.warning("not told to drain %s: %s", ", ".join(names), error)
            return
        if isinstance(answer, Refused):
            log.warning("the broker refuses to drain %s: %s", ", ".join(names), answer.detail)

    def _ask(self, header: Header) -> Header:
        if not self._introduced:
            self._client.hello(timeout_s=ANSWER_WITHIN_S)
            self._introduced = True
        try:
            return self._client.request(header, timeout_s=ANSWER_WITHIN_S).header
        except BrokerUnavailable:
            self._introduced = False  # it may be another broker when it comes back
            raise
