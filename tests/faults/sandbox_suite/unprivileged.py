"""Run as root: become an unprivileged user who can still read this interpreter and this checkout, then run a command.

    python -m tests.faults.sandbox_suite.unprivileged COMMAND...

Both may lie in a folder that only root can enter (/root/.pyenv, say). In a mount namespace of our own such a folder is
covered by an empty one, in which nothing is bound but what is needed: the interpreter keeps its path, and the user sees
no more than before. Nothing of this is seen outside.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

NOBODY = 65534
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18


def main() -> None:
    """See the module's docstring."""
    reveal([Path(sys.base_prefix), Path(sys.prefix), Path(__file__).resolve().parents[3]])
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(sys.argv[1], sys.argv[1:])


def reveal(paths: list[Path]) -> None:
    """Make `paths` enterable for everybody, in a mount namespace of our own."""
    covered: dict[Path, list[Path]] = {}
    for path in paths:
        if (blocked := first_closed(path)) is not None:
            covered.setdefault(blocked, []).append(path)
    if not covered:
        return
    _libc("unshare", _CLONE_NEWNS)
    _libc("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    for blocked, needed in covered.items():
        opened = [(path, os.open(path, os.O_PATH)) for path in needed]
        _libc("mount", b"tmpfs", os.fsencode(blocked), b"tmpfs", 0, b"mode=0755,size=1m")
        for path, descriptor in opened:
            if not path.exists():  # one may lie in another
                path.mkdir(parents=True)
                _libc(
                    "mount", f"/proc/self/fd/{descriptor}".encode(), os.fsencode(path), None, _MS_BIND | _MS_REC, None
                )
            os.close(descriptor)


def first_closed(path: Path) -> Path | None:
    """The outermost folder on the way to `path` that not everybody can enter."""
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _libc(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
