"""vLLM's figures of each scheduler step (cache use, sequences running and waiting), without its front end's statistics.

vLLM has one switch for both. The front end's, kept for each token, cost a third more CPU time than all else it does
there (docs/metrics.md), and there is where an actor is won or lost; the engine's come once a step and take 3 us. So the
switch is on for the engine alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from actor import metrics


@contextlib.contextmanager
def engine_reports() -> Iterator[None]:
    """An AsyncLLM made within, with its own statistics off, starts an engine whose are on."""
    from vllm.v1.engine.core_client import EngineCoreClient

    make: Callable[..., Any] = EngineCoreClient.make_async_mp_client

    def make_with_stats(**arguments: Any) -> Any:
        return make(**{**arguments, "log_stats": True})

    EngineCoreClient.make_async_mp_client = staticmethod(make_with_stats)
    try:
        yield
    finally:
        EngineCoreClient.make_async_mp_client = staticmethod(make)


def follow(llm: Any) -> None:
    """Export what the engine of `llm` reports."""
    processor = llm.output_processor
    pass_on: Callable[[Any], None] = processor.update_scheduler_stats

    def update(stats: Any) -> None:
        metrics.observe_engine(stats)
        pass_on(stats)

    processor.update_scheduler_stats = update
