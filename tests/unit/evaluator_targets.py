"""Functions that the evaluator's tests run inside worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def spin(seconds: float) -> str:
    """Use the CPU for `seconds`."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return "done"


def sleep(seconds: float) -> str:
    """Wait without using the CPU."""
    time.sleep(seconds)
    return "done"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: str) -> str:
    """Die the first time, succeed the second."""
    if not Path(marker).exists():
        Path(marker).touch()
        die()
    return "survived"


def hog() -> int:
    return len(bytearray(8 * 1024**3))


def broken() -> None:
    raise ZeroDivisionError("a grader with a bug")


def fail_start() -> None:
    raise RuntimeError("self test failed")


def grade_by_crashing(answer: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An accuracy kind whose worker dies on the answer "crash" and raises on "raise"."""
    if answer == "crash":
        die()
    if answer == "raise":
        broken()
    return {"score": 1.0, "detail": "fine"}


def grade_slowly(answer: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An accuracy kind that uses as many CPU seconds as the answer says."""
    spin(float(answer))
    return {"score": 1.0, "detail": "slow but right"}


def length_reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    """TRL's signature: None for the empty completion."""
    return [len(completion) / 10 if completion else None for completion in completions]


def column_reward(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    return [float(gold in completion) for gold, completion in zip(answer, completions, strict=True)]


async def coroutine_reward(completions: list[str], **columns: Any) -> list[float | None]:
    return [1.0 for _ in completions]


def short_reward(completions: list[str], **columns: Any) -> list[float]:
    return [1.0]


def nan_reward(completions: list[str], **columns: Any) -> list[float]:
    return [float("nan") for _ in completions]


def raising_reward(completions: list[str], **columns: Any) -> list[float]:
    raise KeyError("solution")


def waiting_reward(completions: list[str], **columns: Any) -> list[float]:
    time.sleep(60)
    return [0.0 for _ in completions]


def strict_reward(prompts: list[str], completions: list[str]) -> list[float]:
    return [0.0 for _ in completions]


def dying_reward(completions: list[str], **columns: Any) -> list[float]:
    """Takes its worker down when a completion says so."""
    if any("die" in completion for completion in completions):
        die()
    return [0.5 for _ in completions]


def silent_reward(completions: list[str], **columns: Any) -> list[None]:
    return [None for _ in completions]


def wordy_reward(completions: list[str], **columns: Any) -> list[str]:
    return ["good" for _ in completions]


def lazy_reward(completions: list[str], **columns: Any) -> None:
    return None
