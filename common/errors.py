"""zeroq's exception tree.

Two audiences: a person who gave bad input (`UserError`, exit code 2, one clear line) and an operator whose run
failed (`RunFailure`, exit code 1, with the last log lines). Broken invariants are plain `assert`s.
"""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class ZeroqError(Exception):
    """Base of everything zeroq raises on purpose."""


class UserError(ZeroqError, ValueError):
    """Bad input. The text names what, where and the remedy in one line; commands print it and exit 2."""


class RunFailure(ZeroqError):
    """A run cannot go on (dead broker, NaN loss, full disk). Commands print it and exit 1."""


class WireError(ZeroqError):
    """A received message breaks the wire contract (bounds, digest, schema). The message is refused, never trusted."""


class SchemaMismatch(WireError):
    """A received message is of another schema version than this process's; `theirs` is None if it states none."""

    def __init__(self, theirs: int | None, ours: int) -> None:
        came = "no schema version" if theirs is None else f"schema version {theirs}"
        age = "newer" if theirs is not None and theirs > ours else "older"
        super().__init__(f"{came} came, {ours} is spoken here: the sender is {age}; give all processes one image tag")
        self.theirs = theirs


class BrokerUnavailable(ZeroqError):
    """The broker did not answer within the deadline."""


class NotLetIn(BrokerUnavailable):
    """The server has no business with this process: key, security.mode or schema version is not what it expects."""


class LeaseLost(ZeroqError):
    """The lease expired, was cancelled or fenced off; whatever was made under it is discarded."""
