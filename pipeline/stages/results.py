"""Results of `pipeline`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MapFn = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""The signature of the built-in `map`, as stages use it."""


@dataclass(frozen=True)
class VectorStores:
    """The two vector stores of one model."""

    images: Path
    captions: Path
