"""Times of the stages of a search, for a caller that asks for them, such as the metrics of the service."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Stage = Literal["embed", "search", "explain"]
ObserveStage = Callable[[Stage, float], None]
_observe: ContextVar[ObserveStage | None] = ContextVar("observe_stage", default=None)


@contextmanager
def observe_stages(observe: ObserveStage) -> Iterator[None]:
    """Call a function with each stage of the searches in this block and thread, and its time in seconds."""
    token = _observe.set(observe)
    try:
        yield
    finally:
        _observe.reset(token)


@contextmanager
def time_stage(stage: Stage) -> Iterator[None]:
    """Time a stage of a search, if anyone observes it."""
    start = time.perf_counter()
    yield
    if (observe := _observe.get()) is not None:
        observe(stage, time.perf_counter() - start)
