"""The wire format: what goes in comes out, and nothing that was damaged or made up is believed."""

from __future__ import annotations

import zlib
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common import messages as m
from common.errors import WireError
from common.message_parts import SCHEMA_VERSION
from common.wire import MAX_FRAMES, MAX_HEADER_BYTES, Payload, decode, encode

arrays = st.one_of(
    *(
        hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5))
        for dtype in (np.int32, np.int64, np.float32, np.uint8)
    )
)
names = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=12)
payloads = st.dictionaries(names, st.one_of(arrays, st.binary(max_size=200)), max_size=6)
headers = st.one_of(
    st.builds(
        m.LeaseWork, kind=st.sampled_from(["generate", "grade"]), version=st.one_of(st.none(), st.integers(0, 9))
    ),
    st.builds(m.Ack, duplicate=st.booleans(), request_id=st.integers(0, 2**63)),
    st.builds(m.Refused, code=st.just("stale"), detail=st.text(max_size=512)),
    st.builds(
        m.SubmitGroup,
        lease_id=names,
        token=st.integers(0, 2**40),
        task_id=names,
        rollouts=st.lists(
            st.builds(
                m.RolloutMeta,
                num_tokens=st.integers(1, 2**40),
                text_bytes=st.integers(0, 2**40),
                finish_reason=st.sampled_from(["stop", "length"]),
            ),
            min_size=1,
            max_size=8,
        ),
    ),
    st.builds(
        m.SubmitVerdicts,
        lease_id=names,
        token=st.integers(0, 9),
        task_id=names,
        verdicts=st.lists(
            st.builds(
                m.Verdict,
                outcome=st.sampled_from(["pass", "fail", "timeout", "error"]),
                reward=st.floats(allow_nan=False, allow_infinity=False),
                rewards=st.dictionaries(names, st.one_of(st.none(), st.floats(-10, 10))),
            ),
            min_size=1,
            max_size=4,
        ),
    ),
)


def on_the_wire(header: m.Header, payload: Payload) -> list[bytes]:
    return [bytes(frame) for frame in encode(header, payload)]


def sample() -> list[bytes]:
    return on_the_wire(m.Ack(request_id=3), {"ids": np.arange(6, dtype=np.int32), "text": b"hello"})


def rewrite(sent: list[bytes], **changes: Any) -> list[bytes]:
    """The sample with header fields replaced; `frame0_x` changes field x of the first frame's description."""
    header = msgpack.unpackb(sent[0])
    for key, value in changes.items():
        if key.startswith("frame0_"):
            header["frames"][0][key.removeprefix("frame0_")] = value
        else:
            header[key] = value
    return [msgpack.packb(header), *sent[1:]]


@given(headers, payloads)
@example(m.Ack(), {})
@example(m.Ack(), {"empty": np.zeros((0, 3), dtype=np.float32), "nothing": b""})
def test_round_trip(header: m.Header, payload: Payload) -> None:
    envelope = decode(on_the_wire(header, payload))
    assert envelope.header.model_copy(update={"frames": []}) == header
    assert envelope.payload.keys() == payload.keys()
    for name, value in payload.items():
        got = envelope.payload[name]
        if isinstance(value, bytes):
            assert got == value
        else:
            assert isinstance(got, np.ndarray)
            assert got.dtype == value.dtype
            assert got.shape == value.shape
            assert got.tobytes() == value.tobytes()
            assert not got.flags.writeable


def test_every_other_layout_of_an_array_arrives_in_order() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    envelope = decode(on_the_wire(m.Ack(), {"t": array.T, "s": array[::2, 1:]}))
    np.testing.assert_array_equal(envelope.payload["t"], array.T)
    np.testing.assert_array_equal(envelope.payload["s"], array[::2, 1:])


@given(st.integers(0, 2), st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(which: int, position: int, bit: int) -> None:
    """In a payload frame always noticed (crc32); in the header, whatever is accepted is a valid message."""
    frames = sample()
    damaged = bytearray(frames[which])
    damaged[position % len(damaged)] ^= 1 << bit
    frames[which] = bytes(damaged)
    if which > 0:
        with pytest.raises(WireError, match="crc32"):
            decode(frames)
    else:
        try:
            envelope = decode(frames)
        except WireError:
            return
        assert len(envelope.payload) == 2


@given(st.integers(0, 2), st.integers(1, 100))
def test_truncation_is_noticed(which: int, cut: int) -> None:
    frames = sample()
    frames[which] = frames[which][: -min(cut, len(frames[which]))]
    with pytest.raises(WireError):
        decode(frames)


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_garbage_raises_only_wire_errors(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(frames)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda s: st.lists(s, max_size=4)))
def test_msgpack_that_is_no_message_raises_only_wire_errors(value: Any) -> None:
    try:
        packed = msgpack.packb(value)
    except OverflowError:
        return
    with pytest.raises(WireError):
        decode([packed])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"surprise": 1}, "surprise"),
        ({"v": float(SCHEMA_VERSION)}, "v"),
        ({"type": "no_such_type"}, "type|tag"),
        ({"request_id": "3"}, "request_id"),
        ({"request_id": -1}, "request_id"),
        ({"duplicate": 1}, "duplicate"),
        ({"frames": []}, "describes 0 frames, 2 came"),
        ({"frame0_surprise": 1}, "surprise"),
        ({"frame0_name": "text"}, "appears twice"),
        ({"frame0_name": ""}, "name"),
        ({"frame0_dtype": "object"}, "dtype"),
        ({"frame0_dtype": "int64"}, "described as int64"),
        ({"frame0_shape": [7]}, "24 bytes"),
        ({"frame0_shape": [2, 4]}, "24 bytes"),
        ({"frame0_shape": [1] * 5}, "shape"),
        ({"frame0_shape": [2**62, 0, 6]}, "24 bytes"),
        ({"frame0_size_bytes": 23}, "in 23"),
        ({"frame0_crc32": 0}, "crc32"),
    ],
)
def test_a_header_that_lies_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(WireError, match=text):
        decode(rewrite(sample(), **changes))


def test_missing_and_surplus_frames_are_refused() -> None:
    frames = sample()
    for wrong in (frames[:-1], [*frames, b"more"], []):
        with pytest.raises(WireError):
            decode(wrong)


def test_pickled_and_other_dtypes_are_not_sent() -> None:
    with pytest.raises(WireError, match="float64"):
        encode(m.Ack(), {"x": np.zeros(3)})
    with pytest.raises(WireError, match="object"):
        encode(m.Ack(), {"x": np.array([{}])})


def test_bounds_on_header_frames_and_total() -> None:
    with pytest.raises(WireError, match="move text to frames"):
        encode(m.StatusReport(status={"x": "y" * MAX_HEADER_BYTES}))
    with pytest.raises(WireError, match="frames exceed"):
        encode(m.Ack(), {f"f{i}": b"" for i in range(MAX_FRAMES + 1)})
    with pytest.raises(WireError, match="header of"):
        decode([b"\x00" * (MAX_HEADER_BYTES + 1)])
    with pytest.raises(WireError, match="frames exceed"):
        decode([b""] * (MAX_FRAMES + 2))
    frames = on_the_wire(m.Ack(), {"x": b"x" * 1000})
    with pytest.raises(WireError, match="exceeds 1000"):
        decode(frames, max_total_bytes=1000)
    assert decode(frames, max_total_bytes=sum(map(len, frames))).payload["x"] == b"x" * 1000


def test_accessors_name_what_is_wrong() -> None:
    envelope = decode(on_the_wire(m.Ack(), {"ids": np.zeros(3, dtype=np.int32), "raw": b"\xff", "text": "é".encode()}))
    assert envelope.array("ids", "int32").shape == (3,)
    assert envelope.text("text") == "é"
    assert envelope.blob("raw") == b"\xff"
    for call in (
        lambda: envelope.array("ids", "float32"),
        lambda: envelope.array("ids", "int32", ndim=2),
        lambda: envelope.array("raw", "int32"),
        lambda: envelope.array("none", "int32"),
        lambda: envelope.blob("ids"),
        lambda: envelope.blob("none"),
        lambda: envelope.text("raw"),
    ):
        with pytest.raises(WireError, match="ack: frame"):
            call()


def test_crc_is_of_the_frame_itself() -> None:
    header = msgpack.unpackb(sample()[0])
    assert header["frames"][1]["crc32"] == zlib.crc32(b"hello")


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 2**62], [2**62, 2**62, 0], [0, 2**64 - 1]])
def test_an_empty_frame_of_an_impossible_shape_is_refused(shape: list[int]) -> None:
    """Their product is 0, as the frame's size says; numpy knows no such arrays."""
    sent = on_the_wire(m.Ack(), {"x": np.zeros(0, dtype=np.int32)})
    with pytest.raises(WireError, match="cannot have shape"):
        decode(rewrite(sent, frame0_shape=shape))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\x00"])
def test_names_of_processes_cannot_forge_lines_of_a_log(name: str) -> None:
    for header in (m.Hello, m.Join):
        fields = {"name": name, "incarnation": "i"} | ({"role": "actor"} if header is m.Hello else {})
        with pytest.raises(ValueError, match="name"):
            header.model_validate(fields)
