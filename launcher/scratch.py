"""Owns the folder of a run's temporary files: it goes with the run, or with the next one if the launcher was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "zeroq-"
_OWNER = ".owner"
_YOUNG_S = 60.0


class Scratch:
    """A new folder at `path`, held by a lock that the kernel lets go when this process ends, however it does."""

    def __init__(self, name: str = "") -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}"))
        self._owner = (self.path / _OWNER).open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it with all that is in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._owner.close()

    def keep(self) -> None:
        """Leave it, for people, to whom it belongs from now on."""
        (self.path / _OWNER).unlink(missing_ok=True)
        self._owner.close()


def _sweep() -> None:
    """Remove this user's folders whose owners are gone; young ones may not have their lock yet."""
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError):
            about = owner.lstat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG_S:
                continue
            with owner.open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
