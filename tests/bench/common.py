"""How a row of a benchmark is measured and shown: CPU seconds of this process, side by side in one run."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

REPEATS = 5
T = TypeVar("T")


def cpu(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median CPU seconds of a call, after one that warms up."""
    function()
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        spent.append(time.process_time() - began)
    return float(np.median(spent))


def cpu_of(function: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of one call, and what it returned."""
    began = time.process_time()
    found = function()
    return time.process_time() - began, found


def show(title: str, rows: list[tuple[str, float, str]]) -> None:
    table = Table("what", "CPU ms", "of the first", "", title=title, title_justify="left")
    for name, seconds, note in rows:
        table.add_row(name, f"{1000 * seconds:,.2f}", f"{seconds / rows[0][1]:.2f}", note)
    Console().print(table)
