"""Byte layout, digests, handles and staging of weights."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.weights.staging import StagingFile, map_private
from common.errors import RunFailure, WireError
from common.messages import ParameterMeta
from common.weights import ALIGNMENT, IpcHandle, Layout, digest_of

HANDLE = IpcHandle(
    device_uuid="GPU-1",
    num_bytes=4096,
    tensor_offset=0,
    device_index=0,
    memory_handle=bytes(range(64)),
    storage_size_bytes=4096,
    storage_offset_bytes=512,
    ref_counter_handle=b"/torch_1_2_3",
    ref_counter_offset=7,
    event_handle=bytes(64),
    event_sync_required=True,
)

metas = st.builds(
    ParameterMeta,
    name=st.text(min_size=1, max_size=20),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    shape=st.lists(st.integers(0, 9), max_size=3),
)


@given(st.lists(metas, min_size=1, max_size=20, unique_by=lambda meta: meta.name), st.integers(1, 700))
def test_slots_are_aligned_disjoint_and_survive_the_manifest(metas: list[ParameterMeta], bucket_bytes: int) -> None:
    layout = Layout(metas)
    end = 0
    for slot in layout.slots:
        assert slot.offset % ALIGNMENT == 0
        assert slot.offset >= end
        end = slot.offset + slot.size_bytes
    assert end <= layout.total_bytes
    assert Layout.from_manifest(layout.manifest()) == layout
    buckets = list(layout.buckets(bucket_bytes))
    assert [start for start, _ in buckets] == [0, *(stop for _, stop in buckets)][: len(buckets)]
    assert all(stop - start <= bucket_bytes for start, stop in buckets)
    assert not buckets or buckets[-1][1] == layout.total_bytes


def test_offsets_worked_by_hand() -> None:
    layout = Layout(
        [
            ParameterMeta(name="a", dtype="bfloat16", shape=[3, 5]),  # 30 bytes
            ParameterMeta(name="b", dtype="float32", shape=[16]),  # 64 bytes
            ParameterMeta(name="c", dtype="float32", shape=[]),  # 4 bytes
        ]
    )
    assert [(slot.offset, slot.size_bytes) for slot in layout.slots] == [(0, 30), (64, 64), (128, 4)]
    assert layout.total_bytes == 192


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"", "manifest"),
        (b"[]", "0 parameters"),
        (b"{}", "valid array"),
        (b'[{"name":"a","dtype":"float64","shape":[1]}]', "dtype"),
        (b'[{"name":"a","dtype":"float32","shape":[-1]}]', "shape"),
        (b'[{"name":"a","dtype":"float32","shape":[1],"offset":0}]', "offset"),
        (b'[{"name":"a","dtype":"float32","shape":["1"]}]', "shape"),
        (b'[{"name":"a","dtype":"float32","shape":[1]},{"name":"a","dtype":"float32","shape":[1]}]', "twice"),
    ],
)
def test_bad_manifests_are_refused(manifest: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        Layout.from_manifest(manifest)


def test_digest_is_of_the_bytes_however_they_are_cut() -> None:
    data = os.urandom(1000)
    assert digest_of(data) == digest_of(data[:1], memoryview(data)[1:])
    assert digest_of(data) != digest_of(data[:-1])


def test_ipc_handles_survive_their_json() -> None:
    assert IpcHandle.from_json(HANDLE.to_json()) == HANDLE


@given(st.binary(max_size=64))
def test_ipc_handles_are_refused_unless_whole(noise: bytes) -> None:
    with pytest.raises(WireError):
        IpcHandle.from_json(noise)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"num_bytes": 4096', b'"num_bytes": "4096"'),
        (b'"num_bytes": 4096', b'"num_bytes": -4096'),
        (b'"num_bytes": 4096', b'"num_bytes": true'),
        (b'"num_bytes": 4096', b'"num_bytes": 4096, "more": 1'),
        (b'"event_sync_required": true', b'"event_sync_required": 1'),
        (b'"memory_handle": "', b'"memory_handle": "?'),
    ],
)
def test_altered_ipc_handles_are_refused(before: bytes, after: bytes) -> None:
    text = HANDLE.to_json()
    assert before in text
    with pytest.raises(WireError, match="IPC handle"):
        IpcHandle.from_json(text.replace(before, after))


def test_staged_bytes_are_seen_by_another_process_and_writes_there_stay_private() -> None:
    staged = StagingFile(4096)
    staged.buffer[:5] = b"hello"
    code = (
        "import sys; from actor.weights.staging import map_private; m = map_private(sys.argv[1], 4096);"
        "assert m[:5] == b'hello', m[:5]; m[:5] = b'spoil'"
    )
    subprocess.run([sys.executable, "-c", code, staged.path], check=True, timeout=60)
    assert staged.buffer[:5] == b"hello"
    mapped = map_private(staged.path, 4096)
    path = staged.path
    staged.close()
    staged.close()
    assert mapped[:5] == b"hello", "a mapping outlives the file"
    with pytest.raises(FileNotFoundError):
        map_private(path, 4096)


def test_staging_file_of_another_size_is_refused() -> None:
    staged = StagingFile(4096)
    with pytest.raises(ValueError, match="4096 bytes staged, expected 8192"):
        map_private(staged.path, 8192)
    staged.close()


def test_more_memory_than_there_is_fails_before_any_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An anonymous file has no limit of its own: without the check it grows until the kernel kills processes."""
    monkeypatch.setattr("actor.weights.staging.psutil.virtual_memory", lambda: SimpleNamespace(available=4096))
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RunFailure, match="no memory to stage weights: 8192 bytes needed, 4096 available"):
        StagingFile(8192)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_receiving_side_loads_without_torch() -> None:
    """The actor sets vLLM's environment, and forks its engine, before torch is imported."""
    code = "import sys, actor.weights, actor.plugin; assert not {'torch', 'vllm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
