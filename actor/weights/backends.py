"""Which transport a run's configuration asks for; each is imported only when used."""

from __future__ import annotations

from actor.weights.loader import Loader
from actor.weights.transport import Transport
from common.config import RunConfig


def make_transport(config: RunConfig, loader: Loader) -> Transport:
    """The actor's end of `weights.backend`."""
    match config.weights.backend:
        case "gloo":
            from actor.weights.gloo import GlooTransport

            return GlooTransport(loader)
        case "ipc":
            from actor.weights.ipc import IpcTransport

            return IpcTransport(loader)
        case "nccl":
            from actor.weights.nccl import NcclTransport

            return NcclTransport(loader)
