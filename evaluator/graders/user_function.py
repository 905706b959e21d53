"""A user's own reward function, in TRL's signature: `fn(prompts, completions, **columns) -> list[float | None]`.

One call per group, inside a worker: `prompts` and `completions` have one entry per rollout, and every column of the
task is repeated per rollout. None means that the reward does not apply to that rollout. Anything else that is not a
finite number, a list of another length, or an exception is an evaluator failure, never a reward.
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


def grade(path: str, prompts: list[str], completions: list[str], columns: dict[str, list[Any]]) -> list[float | None]:
    """Rewards of one group; ValueError when the function breaks its contract."""
    values = load(path)(prompts=prompts, completions=completions, **columns)
    if inspect.isawaitable(values):
        values = asyncio.run(_wait(values))
    if not isinstance(values, list | tuple) or len(values) != len(completions):
        found = f"{len(values)} values" if isinstance(values, list | tuple) else type(values).__name__
        raise ValueError(f"{path} must return a list of {len(completions)} numbers or None, returned {found}")
    return [None if value is None else _number(path, index, value) for index, value in enumerate(values)]


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def _number(path: str, index: int, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{path} returned {value!r} for completion {index}, not a number or None") from None
    if not math.isfinite(number):
        raise ValueError(f"{path} returned {number} for completion {index}; return None where it does not apply")
    return number
