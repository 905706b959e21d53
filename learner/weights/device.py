"""Weights staged on the GPU: one flat buffer, kept from publish to publish, for the backends ipc and nccl.

    | version stamp, 64 bytes | parameters by Layout ... |

The stamp says -1 while the buffer is written. A host copy for those who pull is made only when somebody does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from common.weights import STAMP_BYTES, STAMP_WRITING, Layout, digest_of
from learner.weights.transport import Snapshot, Tensors, fill, snapshot_of


@dataclass(frozen=True)
class DeviceStaged:
    """One version in the device buffer. Its digest covers what it is, not its bytes: those never leave CUDA's hands."""

    version: int
    layout: Layout
    digest: str
    buffer: DeviceBuffer

    def snapshot(self) -> Snapshot | None:
        return self.buffer.snapshot(self)


class DeviceBuffer:
    """The flat buffer. Written by the publishing thread, read by it and (for pulls) by the control thread."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.flat_B: torch.Tensor | None = None  # uint8, stamp included
        self._dtype = dtype
        self._layout: Layout | None = None
        self._version = STAMP_WRITING
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()

    def stage(self, version: int, tensors: Tensors) -> DeviceStaged:
        """Write all tensors into the buffer. Whoever maps it sees the stamp change before the first byte does."""
        with self._lock:
            self._version = STAMP_WRITING
            self._snapshot = None
        self._stamp(STAMP_WRITING)
        self._layout, _ = fill(tensors, self._dtype, self._layout, self._allocate)
        torch.cuda.synchronize(self.device)
        self._stamp(version)
        with self._lock:
            self._version = version
        digest = digest_of(self._layout.manifest(), str(version).encode())
        return DeviceStaged(version, self._layout, digest, self)

    def snapshot(self, staged: DeviceStaged) -> Snapshot | None:
        """Host copy of that version, made once; None when the buffer has moved on."""
        with self._lock:
            if self._version != staged.version or self.flat_B is None:
                return None
            if self._snapshot is None:
                data_B = self.flat_B[STAMP_BYTES:].cpu().numpy()
                self._snapshot = snapshot_of(staged.version, staged.layout, data_B)
            return self._snapshot

    def _allocate(self, total_bytes: int) -> torch.Tensor:
        if self.flat_B is None:
            self.flat_B = torch.zeros(STAMP_BYTES + total_bytes, dtype=torch.uint8, device=self.device)
        return self.flat_B[STAMP_BYTES:]

    def _stamp(self, version: int) -> None:
        if self.flat_B is not None:
            self.flat_B[:8].view(torch.int64).fill_(version)
            torch.cuda.synchronize(self.device)
