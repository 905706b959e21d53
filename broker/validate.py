"""Bounds on everything received. Each check raises Refusal("invalid") with rule, value, identity and remedy.

Token arrays are checked with numpy on the frames as received; nothing is copied and no Python loop runs per token.
"""

from __future__ import annotations

import itertools
from typing import NoReturn

import numpy as np

from broker.records import Generated, Refusal, Task
from common.messages import AddTask, RolloutMeta, SubmitGroup, SubmitVerdicts, Verdict
from common.wire import Array, Payload

LOGPROB_SLACK = 1e-4
HEADER_BUDGET_BYTES = 60_000
ROLLOUT_HEADER_BYTES = 64
VERDICT_HEADER_BYTES = 96
MAX_GROUP_SIZE = 256  # so that one header holds rollouts and verdicts, with 74 bytes each for names of rewards

_TASK_FRAMES = {"prompt_ids": "int32", "prompt": "bytes", "spec": "bytes"}
_GROUP_FRAMES = {"token_ids": "int32", "logprobs": "float32", "versions": "int32", "texts": "bytes"}


def check_task(header: AddTask, payload: Payload, vocab_size: int | None) -> None:
    """A task to admit: frames prompt_ids int32[P], prompt (UTF-8), spec; ids within the vocabulary."""
    who = f"task {header.task_id}"
    _check_frames(payload, _TASK_FRAMES, who)
    if header.group_size > MAX_GROUP_SIZE:
        _refuse(f"{who}: group_size {header.group_size} does not fit one header; use at most {MAX_GROUP_SIZE}")
    prompt_ids = payload["prompt_ids"]
    assert isinstance(prompt_ids, np.ndarray)
    if prompt_ids.size == 0:
        _refuse(f"{who}: prompt_ids is empty; a prompt has at least one token")
    _check_range("prompt_ids", prompt_ids, 0, None if vocab_size is None else vocab_size - 1, who)
    prompt = payload["prompt"]
    assert isinstance(prompt, bytes)
    _check_utf8("prompt", prompt, who)


def check_no_frames(payload: Payload, who: str) -> None:
    """A request that carries no payload."""
    if payload:
        _refuse(f"{who}: frames {sorted(payload)} are not part of this message; send none")


def check_group(
    header: SubmitGroup, payload: Payload, task: Task, *, vocab_size: int | None, version: int, holder: str
) -> Generated:
    """A generated group against its task; returns it with the versions of its oldest and newest token.

    Frames, T tokens of all rollouts one after the other: token_ids int32[T], logprobs float32[T], versions int32[T],
    texts (UTF-8, cut by `text_bytes`).
    """
    who = f"group of task {task.task_id} from {holder} (lease {header.lease_id})"
    if header.task_id != task.task_id:
        _refuse(f"{who}: submitted as task {header.task_id}; send the task_id of the lease")
    if len(header.rollouts) != task.group_size:
        _refuse(f"{who}: {len(header.rollouts)} rollouts, group_size is {task.group_size}; send all of them at once")
    _check_frames(payload, _GROUP_FRAMES, who)
    num_tokens = sum(r.num_tokens for r in header.rollouts)  # Python integers: a peer may claim more than 2**63
    for name in ("token_ids", "logprobs", "versions"):
        size = len(payload[name])
        if size != num_tokens:
            _refuse(f"{who}: {name} has {size} entries, the rollouts' num_tokens add up to {num_tokens}")
    lengths = np.fromiter((r.num_tokens for r in header.rollouts), dtype=np.int64, count=len(header.rollouts))
    if int(lengths.max()) > task.sampling.max_tokens:
        _refuse(f"{who}: a rollout of {int(lengths.max())} tokens exceeds max_tokens {task.sampling.max_tokens}")
    token_ids, logprobs, versions = payload["token_ids"], payload["logprobs"], payload["versions"]
    assert isinstance(token_ids, np.ndarray)
    assert isinstance(logprobs, np.ndarray)
    assert isinstance(versions, np.ndarray)
    _check_range("token_ids", token_ids, 0, None if vocab_size is None else vocab_size - 1, who)
    _check_logprobs(logprobs, who)
    oldest, newest = _check_range("versions", versions, 0, version + 1, who)
    if oldest != newest:
        _check_monotone(versions, lengths, who)
    _check_texts(payload["texts"], header.rollouts, who)
    return Generated(header.rollouts, payload, oldest, newest, num_tokens)


def check_verdicts(header: SubmitVerdicts, task: Task, holder: str) -> list[Verdict]:
    """One verdict per rollout, small enough to travel in the Group's header; long details give way first."""
    who = f"verdicts on task {task.task_id} from {holder} (lease {header.lease_id})"
    verdicts = header.verdicts
    if header.task_id != task.task_id:
        _refuse(f"{who}: submitted as task {header.task_id}; send the task_id of the lease")
    if len(verdicts) != task.group_size:
        _refuse(f"{who}: {len(verdicts)} verdicts, group_size is {task.group_size}; send one per rollout, in order")
    room = HEADER_BUDGET_BYTES - ROLLOUT_HEADER_BYTES * task.group_size
    room -= sum(VERDICT_HEADER_BYTES + sum(4 * len(name) + 14 for name in v.rewards) for v in verdicts)
    if room < 0:
        _refuse(f"{who}: {-room} bytes too many for one header; use fewer or shorter reward names")
    if sum(4 * len(v.detail) for v in verdicts) > room:
        return [v.model_copy(update={"detail": ""}) for v in verdicts]
    return verdicts


def _check_frames(payload: Payload, expected: dict[str, str], who: str) -> None:
    if payload.keys() != expected.keys():
        _refuse(f"{who}: frames {sorted(payload)}, expected {sorted(expected)}")
    for name, dtype in expected.items():
        value = payload[name]
        if isinstance(value, bytes):
            found, ndim = "bytes", 1
        else:
            found, ndim = value.dtype.name, value.ndim
        if found != dtype or ndim != 1:
            _refuse(f"{who}: frame {name} is {found} with {ndim} dimension(s), expected {dtype} with 1")


def _check_range(name: str, array: Array, low: int, high: int | None, who: str) -> tuple[int, int]:
    smallest, largest = int(array.min()), int(array.max())
    if smallest < low:
        _refuse(f"{who}: {name}[{int(array.argmin())}] = {smallest} is below {low}")
    if high is not None and largest > high:
        _refuse(f"{who}: {name}[{int(array.argmax())}] = {largest} is above {high}")
    return smallest, largest


def _check_logprobs(logprobs: Array, who: str) -> None:
    # One pass: a NaN makes the maximum NaN and fails the comparison; -inf shows in the minimum.
    largest, smallest = float(logprobs.max()), float(logprobs.min())
    if largest <= LOGPROB_SLACK and smallest > -np.inf:
        return
    bad = int(np.flatnonzero(~np.isfinite(logprobs) | (logprobs > LOGPROB_SLACK))[0])
    _refuse(f"{who}: logprobs[{bad}] = {float(logprobs[bad])}; log-probabilities are finite and at most 0")


def _check_monotone(versions: Array, lengths: Array, who: str) -> None:
    falls = versions[1:] < versions[:-1]
    falls[np.cumsum(lengths)[:-1] - 1] = False  # a new rollout may start at any version
    if falls.any():
        at = int(np.argmax(falls)) + 1
        _refuse(f"{who}: versions fall from {int(versions[at - 1])} to {int(versions[at])} at token {at} in a rollout")


def _check_texts(texts: object, rollouts: list[RolloutMeta], who: str) -> None:
    assert isinstance(texts, bytes)
    num_bytes = sum(r.text_bytes for r in rollouts)
    if num_bytes != len(texts):
        _refuse(f"{who}: texts has {len(texts)} bytes, the rollouts' text_bytes add up to {num_bytes}")
    _check_utf8("texts", texts, who)
    for end in itertools.accumulate(r.text_bytes for r in rollouts):
        if end < len(texts) and texts[end] & 0xC0 == 0x80:
            _refuse(f"{who}: text_bytes cut a UTF-8 character at byte {end}; count bytes, not characters")


def _check_utf8(name: str, value: bytes, who: str) -> None:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"{who}: {name} is not UTF-8 ({error.reason} at byte {error.start})")


def _refuse(detail: str) -> NoReturn:
    raise Refusal("invalid", detail)
