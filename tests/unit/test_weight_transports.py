"""Pure parts of the weight transports: gather, fill, CUDA IPC arguments, NCCL id, plugin, loader."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import Any

import pytest
import torch

from actor.weights.loader import Loader, LoadFailed
from actor.weights.transport import TransferFailed, in_thread, to_its_end
from actor.weights.update import Update
from common.errors import RunFailure
from common.weights import IpcHandle
from learner.weights import gather_full_tensors
from learner.weights.transport import fill, slot_view

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(4, 3)


class Tied(torch.nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.config = type("Config", (), {"tie_word_embeddings": tied})()
        self.embed = torch.nn.Embedding(7, 4)
        self._orig_mod = Inner()
        self.lm_head = torch.nn.Linear(4, 7, bias=False)


def test_gather_gives_checkpoint_names_in_the_dtype_asked_for() -> None:
    model = Tied(tied=False)
    gathered = dict(gather_full_tensors(model, torch.bfloat16, bucket_bytes=1))
    assert list(gathered) == ["embed.weight", "proj.weight", "proj.bias", "lm_head.weight"]
    assert all(tensor.dtype == torch.bfloat16 and not tensor.requires_grad for tensor in gathered.values())
    assert torch.equal(gathered["proj.weight"], model._orig_mod.proj.weight.detach().bfloat16())


def test_gather_leaves_out_a_tied_head_even_when_it_is_a_parameter_of_its_own() -> None:
    assert "lm_head.weight" not in dict(gather_full_tensors(Tied(tied=True)))


def test_fill_places_and_casts_and_takes_views_of_no_live_weight() -> None:
    weights = [("a", torch.arange(6.0).reshape(2, 3)), ("b", torch.tensor(7.0))]
    layout, first_B = fill(weights, torch.float32, None, lambda size: torch.zeros(size, dtype=torch.uint8))
    again, second_B = fill(weights, torch.float32, layout, lambda size: torch.zeros(size, dtype=torch.uint8))
    assert again is layout
    assert torch.equal(first_B, second_B)
    weights[0][1].zero_()
    slot = layout.slots[0]
    view = slot_view(first_B, slot.offset, slot.size_bytes, torch.float32, slot.meta.shape)
    assert torch.equal(view, torch.arange(6.0).reshape(2, 3))
    assert first_B[64:68].view(torch.float32).item() == 7.0
    assert int(first_B[24:64].sum()) == 0


def test_ipc_arguments_survive_the_wire_but_for_our_number_of_the_card() -> None:
    from actor.weights.engine import rebuild_arguments
    from learner.weights.ipc import handle_of

    arguments: tuple[Any, ...] = (
        torch.Tensor,
        torch.Size([4096]),
        (1,),
        128,
        torch.storage.TypedStorage,
        torch.uint8,
        3,
        b"m" * 64,
        8192,
        512,
        False,
        b"/torch_1",
        5,
        b"e" * 64,
        True,
    )
    handle = IpcHandle.from_json(handle_of(arguments, "GPU-1").to_json())
    assert handle.device_uuid == "GPU-1"
    rebuilt = rebuild_arguments(handle, 0)
    assert rebuilt == (*arguments[:6], 0, *arguments[7:])


def test_torch_still_takes_these_arguments_in_this_order() -> None:
    """The order is PyTorch's private business; pin it."""
    import inspect

    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    assert list(inspect.signature(rebuild_cuda_tensor).parameters) == [
        "tensor_cls",
        "tensor_size",
        "tensor_stride",
        "tensor_offset",
        "storage_cls",
        "dtype",
        "storage_device",
        "storage_handle",
        "storage_size_bytes",
        "storage_offset_bytes",
        "requires_grad",
        "ref_counter_handle",
        "ref_counter_offset",
        "event_handle",
        "event_sync_required",
    ]


def test_nccl_id_comes_as_plain_json_or_not_at_all() -> None:
    from actor.weights.nccl import _unique_id

    encoded = base64.b64encode(bytes(128)).decode()
    assert _unique_id(json.dumps({"nccl_unique_id": encoded}).encode()) == encoded
    for bad in (b"", b"[]", b"{}", b'{"nccl_unique_id": 5}'):
        with pytest.raises(TransferFailed):
            _unique_id(bad)


def test_registering_twice_is_fine_and_vllm_finds_our_engines() -> None:
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from actor.plugin import ENGINES, engine_name, register

    register()
    register()
    for backend in ("gloo", "ipc", "nccl"):
        name = engine_name(backend)
        assert WeightTransferEngineFactory._registry[name]().__name__ == ENGINES[name][1]


class BrokenLLM:
    """AsyncLLM whose update fails or hangs."""

    def __init__(self, *, hang: bool) -> None:
        self.hang = hang
        self.resumed = False
        self.engine_core = self

    async def pause_scheduler_async(self, **_: Any) -> None: ...

    async def resume_generation(self) -> None:
        self.resumed = True

    async def start_weight_update(self) -> None: ...

    async def update_weights(self, _request: Any) -> None:
        if self.hang:
            await asyncio.Event().wait()
        raise Exception("worker: half the bytes")

    async def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def test_failed_update_leaves_the_engine_paused_and_a_hanging_one_ends_the_actor() -> None:
    update = Update("staged", 1, "[]", path="none")

    async def flow() -> None:
        broken = BrokenLLM(hang=False)
        loader = Loader(broken, timeout_s=5)
        with pytest.raises(LoadFailed, match="half the bytes"):
            await loader.load(1, update)
        assert loader.paused
        assert not broken.resumed
        with pytest.raises(RunFailure, match=r"did not update within 0\.05 s"):
            await Loader(BrokenLLM(hang=True), timeout_s=0.05).load(1, update)

    asyncio.run(flow())


def test_late_result_of_an_abandoned_thread_is_disposed_of() -> None:
    release, disposed = threading.Event(), threading.Event()

    def slow() -> str:
        release.wait(10)
        return "late"

    async def flow() -> None:
        task = asyncio.create_task(in_thread(slow, lambda result: disposed.set() if result == "late" else None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    asyncio.run(flow())
    assert disposed.wait(10)


def test_what_must_not_be_left_half_done_ends_before_a_cancellation_is_delivered() -> None:
    done = []

    async def step() -> None:
        await asyncio.sleep(0.05)
        done.append(True)

    async def flow() -> None:
        task = asyncio.create_task(to_its_end(step()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [True]

    asyncio.run(flow())
