"""Measure and print the rows of a benchmark: CPU seconds of this process, compared within one run."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

REPEATS = 5
T = TypeVar("T")


def cpu(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median CPU seconds of a call, after one call to warm up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def cpu_of(function: Callable[[], T]) -> tuple[float, T]:
    """Return the CPU seconds of one call, and its result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def show(title: str, rows: list[tuple[str, float, str]]) -> None:
    table = Table("what", "CPU ms", "of the first", "", title=title, title_justify="left")
    for name, seconds, note in rows:
        table.add_row(name, f"{1000 * seconds:,.2f}", f"{seconds / rows[0][1]:.2f}", note)
    Console().print(table)
