"""What the main process tells vLLM's worker: plain values only, which vLLM sends over without pickle. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Update:
    """One whole version. staged: `path`. ipc: `handle` (IpcHandle as JSON). nccl: nothing more than the manifest."""

    source: Literal["staged", "ipc", "nccl"]
    version: int
    manifest: str
    path: str = ""
    handle: str = ""
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Connect:
    """nccl: which communicator to join. Other backends need no connection."""

    rank: int = 0
    world_size: int = 0
    nccl_unique_id: str = field(default="", repr=False)
    bucket_bytes: int = 0
    timeout_s: float = 60.0
