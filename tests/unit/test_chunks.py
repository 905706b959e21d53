"""The size of chunks follows the link: no chunk is lost for ever, and a fast link is used."""

from __future__ import annotations

import pytest

from actor.chunks import LARGEST_BYTES, SMALLEST_BYTES, ChunkSize

MIB = 1024 * 1024
HEARD_S = 1.5  # a message that takes longer ends the connection (common/client.py)
ANSWER_S = 5.0


def seconds_to_pull(total_bytes: int, rates: list[float], latency_s: float, first_s: float) -> float:
    """Time until all has come over a link of `rates` bytes per second, one after the other, the last for ever;
    `first_s`: the learner makes the first chunk."""
    chunk, got, seconds, rates = ChunkSize(), 0, 0.0, list(rates)
    while got < total_bytes:
        rate = rates.pop(0) if len(rates) > 1 else rates[0]
        size = min(chunk.num_bytes, total_bytes - got)
        assert SMALLEST_BYTES <= chunk.num_bytes <= LARGEST_BYTES
        if size / rate > HEARD_S:
            chunk.lost()
            seconds += ANSWER_S
            assert seconds < 100 * ANSWER_S, "it never arrives"
            continue
        took_s = latency_s + size / rate + (first_s if got == 0 else 0.0)
        chunk.arrived(took_s)
        got, seconds = got + size, seconds + took_s
    return seconds


@pytest.mark.parametrize("rate", [0.05, 0.2, 1, 4, 30, 125, 1250])
@pytest.mark.parametrize("latency_s", [0.0002, 0.05])
def test_all_of_it_arrives_at_any_rate_in_little_more_than_the_link_needs(rate: float, latency_s: float) -> None:
    total = int(max(rate, 1) * 60 * MIB)
    seconds = seconds_to_pull(total, [rate * MIB], latency_s, first_s=0.0)
    ideal_s = total / (rate * MIB)
    chunks = total / LARGEST_BYTES  # where chunks are at their largest, a round trip each stays
    assert seconds <= 1.3 * ideal_s + 2 * latency_s * chunks + 3 * ANSWER_S


@pytest.mark.parametrize("latency_s", [0.3, 0.42, 0.55])
def test_a_long_round_trip_is_not_taken_for_a_slow_link(latency_s: float) -> None:
    """Smaller chunks would make it worse: a round trip each."""
    rate = 20 * MIB
    seconds = seconds_to_pull(600 * MIB, [rate], latency_s, first_s=0.0)
    with_largest_s = 600 * MIB / LARGEST_BYTES * (latency_s + LARGEST_BYTES / rate)
    assert seconds <= 6 * with_largest_s  # 64 KiB for each round trip would be a hundred times


def test_a_learner_that_takes_long_to_make_the_first_chunk_costs_nothing_later() -> None:
    quick = seconds_to_pull(2000 * MIB, [1000 * MIB], 0.0002, first_s=0.0)
    slow = seconds_to_pull(2000 * MIB, [1000 * MIB], 0.0002, first_s=4.0)
    assert slow <= quick + 4.5


def test_a_link_that_becomes_slow_in_the_middle_is_followed() -> None:
    """Sixteen actors pull at once where one did: 16 MiB were right, and would never come now."""
    seconds = seconds_to_pull(400 * MIB, [125 * MIB] * 6 + [2 * MIB], 0.0002, first_s=0.0)
    assert seconds <= 400 / 2 * 1.3 + 4 * ANSWER_S


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5, 0.59])
def test_the_next_chunk_is_heard_in_time_even_if_its_time_grows_as_it_does(seconds: float) -> None:
    chunk = ChunkSize()
    before = chunk.num_bytes
    chunk.arrived(seconds)
    assert seconds * chunk.num_bytes / before <= 1.0
    assert before < chunk.num_bytes <= 4 * before  # a burst that buffers swallow is not the link's rate
