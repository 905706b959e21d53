"""A pull in progress: the late joiner's way to its first weights, chunk by chunk over the control socket."""

from __future__ import annotations

import numpy as np

from actor.weights.staging import StagingFile
from common.errors import WireError
from common.messages import Pull, Snapshot
from common.weights import Layout, digest_of
from common.wire import Envelope


class PullInProgress:
    """Collects the chunks of one version into a staging file, which `close` gives back."""

    def __init__(self, first: Envelope) -> None:
        """Begin with the reply at offset 0; WireError if it contradicts itself."""
        header = first.header
        assert isinstance(header, Snapshot)
        self.layout = Layout.from_manifest(first.blob("manifest"))
        if self.layout.total_bytes != header.total_bytes:
            raise WireError(f"snapshot of {header.total_bytes} bytes, its manifest says {self.layout.total_bytes}")
        self.version = header.version
        self._digest = header.digest
        self._received = 0
        self.staged = StagingFile(header.total_bytes)
        self.add(first)

    @property
    def complete(self) -> bool:
        """All bytes are there."""
        return self._received == self.layout.total_bytes

    def is_of(self, header: Snapshot) -> bool:
        """Whether a reply is of the same version, of the same learner."""
        return (header.version, header.digest) == (self.version, self._digest)

    def add(self, envelope: Envelope) -> None:
        """Take the next chunk; another one (the first, of a learner that did not know us any more) is passed over."""
        header = envelope.header
        assert isinstance(header, Snapshot)
        if not self.is_of(header) or header.offset != self._received:
            return
        chunk = envelope.array("chunk", "uint8")
        if not 0 < chunk.size <= self.layout.total_bytes - self._received:
            raise WireError(f"snapshot chunk of {chunk.size} bytes at {self._received} of {self.layout.total_bytes}")
        target = np.frombuffer(self.staged.buffer, dtype=np.uint8, count=chunk.size, offset=self._received)
        target[:] = chunk
        self._received += chunk.size

    def request(self) -> Pull:
        """What to ask for next."""
        return Pull(version=self.version, offset=self._received)

    def verify(self) -> None:
        """WireError unless the digest over all bytes is the one announced."""
        found = digest_of(self.staged.buffer)
        if found != self._digest:
            raise WireError(f"weights of version {self.version}: digest {found[:16]}, announced {self._digest[:16]}")

    def close(self) -> None:
        """Give the memory back."""
        self.staged.close()
