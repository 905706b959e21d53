"""A user's own reward function, in TRL's signature: `fn(prompts, completions, **columns) -> list[float | None]`.

One call per group, inside a worker: `prompts` and `completions` have one entry per rollout, and every column of the
task is repeated per rollout. None means that the reward does not apply to that rollout. Anything else that is not a
finite number, a list of another length, or an exception is a fault, never a reward: `grade` says which, and whether
another attempt could end otherwise.
Functions may be coroutines. Each worker process imports the module anew, so module state is per process.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

from evaluator.worker import describe


@functools.lru_cache(maxsize=64)
def load(path: str) -> Callable[..., Any]:
    """The function at 'module:name'; ImportError or TypeError with the reason."""
    module_name, _, name = path.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, name, None)
    if function is None:
        raise ImportError(f"module {module_name} has no {name!r}")
    if not callable(function):
        raise TypeError(f"{path} is {type(function).__name__}, not a function")
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        raise TypeError(f"{path} must take **kwargs: it is called as fn(prompts=, completions=, **columns)")
    loaded: Callable[..., Any] = function
    return loaded


def check(path: str) -> None:
    """Raise whatever stands in the way of using the function; called once at the start of a run."""
    load(path)


def prepare(path: str, **_: Any) -> None:
    """Import outside the limit."""
    load(path)


def grade(path: str, prompts: list[str], completions: list[str], columns: dict[str, list[Any]]) -> dict[str, Any]:
    """Rewards of one group: {"values": [float | None, ...]}, or {"fault": what the function did, "final": bool}."""
    function = load(path)
    try:
        values = function(prompts=prompts, completions=completions, **columns)
        if inspect.isawaitable(values):
            values = asyncio.run(_wait(values))
    except MemoryError:
        raise
    except Exception as error:
        return {"fault": f"raised {describe(error)}", "final": False}
    try:
        return {"values": _checked(values, len(completions))}
    except ValueError as error:
        return {"fault": f"returned {error}", "final": True}


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def _checked(values: Any, num: int) -> list[float | None]:
    """`values` as numbers and None; ValueError says what they are instead."""
    if not isinstance(values, list | tuple):
        raise ValueError(f"{type(values).__name__}, not a list of {num} numbers or None")
    if len(values) != num:
        raise ValueError(f"{len(values)} values for {num} completions")
    return [None if value is None else _number(index, value) for index, value in enumerate(values)]


def _number(index: int, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{str(value)[:80]!r} for completion {index}, not a number or None") from None
    if not math.isfinite(number):
        raise ValueError(f"{number} for completion {index}; return None where it does not apply")
    return number
