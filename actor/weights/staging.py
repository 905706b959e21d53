"""Host memory that holds one version while it arrives, and that vLLM's worker maps by a path.

An anonymous file (memfd): no directory entry that could be left behind, gone with its last user however that dies,
and not bound by the size of /dev/shm, which containers set to 64 MB. The worker, another process of the same user,
opens it as /proc/PID/fd/N. Such a file grows until the kernel kills somebody, so the room is looked for first.
"""

from __future__ import annotations

import contextlib
import mmap
import os

import psutil

from common.errors import RunFailure


class StagingFile:
    """`buffer` is the writable mapping of `total_bytes` zeroed bytes. Close it when the weights are loaded."""

    def __init__(self, total_bytes: int) -> None:
        """RunFailure when the machine has not that much memory."""
        available = psutil.virtual_memory().available
        if total_bytes > available:
            raise RunFailure(f"no memory to stage weights: {total_bytes} bytes needed, {available} available")
        self._fd = os.memfd_create("zeroq-weights", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, total_bytes)
            self.buffer = mmap.mmap(self._fd, total_bytes)
        except OSError as error:
            os.close(self._fd)
            raise RunFailure(f"cannot stage {total_bytes} bytes of weights: {error}") from error
        self.total_bytes = total_bytes
        self._closed = False

    @property
    def path(self) -> str:
        """Where other processes of this user open it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Give the memory back. Idempotent. Mappings made by others stay valid until they drop them."""
        if self._closed:
            return
        self._closed = True
        os.close(self._fd)
        with contextlib.suppress(BufferError):  # a receive that was given up still holds a view; it ends with it
            self.buffer.close()


def map_private(path: str, total_bytes: int) -> mmap.mmap:
    """Map a staging file; ValueError unless it has `total_bytes`. Writes, if any, stay private to the caller."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size != total_bytes:
            raise ValueError(f"{path}: {size} bytes staged, expected {total_bytes}")
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    finally:
        os.close(fd)
