"""Weight-transfer engines inside vLLM's worker processes, registered by actor/plugin.py.

    gloo         StagedEngine   maps a staging file that the actor's main process filled
    zeroq_ipc    IpcEngine      copies from the learner's GPU buffer
    zeroq_nccl   NcclEngine     receives by vLLM's NCCL engine

All of them load a staging file too: that is how a late joiner gets its first weights, whatever the backend.

Everything happens within one `update_weights` call, and start/finish do nothing: vLLM's worker forgets an update that
fails there, whereas one that fails in `finish` stays "active" and blocks every later one.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from actor.weights.reload import layerwise_reload
from actor.weights.staging import map_private
from actor.weights.update import Connect, Update
from common.weights import STAMP_BYTES, IpcHandle, Layout


class StagedMixin:
    """Loads staging files; other sources go to `receive_directly`."""

    init_info_cls = Connect
    update_info_cls = Update
    model: torch.nn.Module
    model_config: Any
    device: torch.device

    def init_transfer_engine(self, init_info: Connect) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Nothing: see the module's docstring."""

    def finish_weight_update(self) -> None:
        """Nothing: see the module's docstring."""

    def receive_weights(self, update_info: Update) -> None:
        """Load one whole version. On any error the model is a mixture of versions and must not be sampled from."""
        layout = Layout.from_manifest(update_info.manifest.encode())
        if update_info.source != "staged":
            self.receive_directly(update_info, layout)
            return
        mapped = map_private(update_info.path, layout.total_bytes)
        flat_B = torch.frombuffer(mapped, dtype=torch.uint8)
        with layerwise_reload(self.model, self.model_config) as load:
            load(named_tensors(flat_B, layout))

    def receive_directly(self, update_info: Update, layout: Layout) -> None:
        """Sources other than a staging file."""
        raise ValueError(f"this engine loads staging files only, not {update_info.source!r}")

    def shutdown(self) -> None:
        """Nothing is held."""


class StagedEngine(StagedMixin, WeightTransferEngine):  # type: ignore[misc]
    """Backend gloo: the network is the main process's affair."""


class IpcEngine(StagedMixin, IPCWeightTransferEngine):  # type: ignore[misc]
    """Backend ipc: the learner's flat buffer, mapped by one handle instead of one per parameter."""

    def receive_directly(self, update_info: Update, layout: Layout) -> None:
        """Copy out of the learner's buffer; ValueError if it was written over before we were done."""
        shared_B = self._map(IpcHandle.from_json(update_info.handle))
        try:
            self._check_stamp(shared_B, update_info.version)
            with layerwise_reload(self.model, self.model_config) as load:
                load(named_tensors(shared_B[STAMP_BYTES:], layout))
            torch.accelerator.synchronize()
            self._check_stamp(shared_B, update_info.version)
        finally:
            del shared_B
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]

    def _map(self, handle: IpcHandle) -> torch.Tensor:
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        uuid = str(torch.cuda.get_device_properties(self.device.index).uuid)
        if handle.device_uuid != uuid:
            raise ValueError(
                f"learner is on card {handle.device_uuid}, this actor on {uuid}: weights.backend=ipc needs one "
                "card for both; use nccl"
            )
        return rebuild_cuda_tensor(*rebuild_arguments(handle, self.device.index))  # type: ignore[no-untyped-call,no-any-return]

    @staticmethod
    def _check_stamp(shared_B: torch.Tensor, version: int) -> None:
        found = int(shared_B[:8].view(torch.int64).item())
        if found != version:
            raise ValueError(f"the learner's buffer holds version {found}, not {version}: too late")


class NcclEngine(StagedMixin, NCCLWeightTransferEngine):  # type: ignore[misc]
    """Backend nccl: vLLM's packed broadcast, with a deadline that vLLM's own engine lacks."""

    def init_transfer_engine(self, init_info: Connect) -> None:
        """Join a new communicator; the former one is aborted."""
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        NCCLWeightTransferEngine.shutdown(self)
        self.packed = True
        self.packed_buffer_size_bytes = init_info.bucket_bytes
        self.model_update_group = uid_init_process_group(
            base64.b64decode(init_info.nccl_unique_id, validate=True),
            init_info.rank,
            init_info.world_size,
            self.device,
        )

    def receive_directly(self, update_info: Update, layout: Layout) -> None:
        """Receive into the model; RuntimeError when the learner did not send everything before the deadline."""
        group = self.model_update_group
        if group is None:
            raise RuntimeError("nccl: not connected")
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            group.destroy()  # aborts the communicator, so that the broadcast returns

        watchdog = threading.Timer(update_info.timeout_s, expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            with layerwise_reload(self.model, self.model_config) as load:
                self._receive_packed(layout, load)
                torch.accelerator.synchronize()
        finally:
            watchdog.cancel()
        if expired.is_set():
            self.model_update_group = None
            raise RuntimeError(f"nccl: the broadcast did not end within {update_info.timeout_s:g} s")

    def _receive_packed(self, layout: Layout, load: Any) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_consumer

        packed_nccl_broadcast_consumer(
            iterator=((s.meta.name, (s.meta.shape, getattr(torch, s.meta.dtype))) for s in layout.slots),
            group=self.model_update_group,
            src=0,
            post_unpack_func=load,
            buffer_size_bytes=self.packed_buffer_size_bytes,
            num_buffers=self.packed_num_buffers,
            device=self.device,
        )

    def shutdown(self) -> None:
        """Abort the communicator."""
        NCCLWeightTransferEngine.shutdown(self)


def named_tensors(flat_B: torch.Tensor, layout: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """Views on the flat buffer, one per parameter."""
    for slot in layout.slots:
        dtype = getattr(torch, slot.meta.dtype)
        yield slot.meta.name, flat_B[slot.offset : slot.offset + slot.size_bytes].view(dtype).view(slot.meta.shape)


def rebuild_arguments(handle: IpcHandle, device_index: int) -> tuple[Any, ...]:
    """Arguments of torch's `rebuild_cuda_tensor`, with our own number of the card in place of the learner's."""
    return (
        torch.Tensor,
        torch.Size([handle.num_bytes]),
        (1,),
        handle.tensor_offset,
        torch.storage.TypedStorage,
        torch.uint8,
        device_index,
        handle.memory_handle,
        handle.storage_size_bytes,
        handle.storage_offset_bytes,
        False,
        handle.ref_counter_handle,
        handle.ref_counter_offset,
        handle.event_handle,
        handle.event_sync_required,
    )
