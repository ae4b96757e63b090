"""Progress on the terminal: a bar with rate and time left. Used by the process map and by commands."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True)


class RateColumn(ProgressColumn):
    """Items per second, averaged over the latest of them; seconds per item if it takes longer than one."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        if not task.speed:
            return Text("")
        slow = f"{1 / task.speed:,.1f} s each" if task.speed < 1 else f"{task.speed:,.1f}/s"
        return Text(slow if task.speed < 10 else f"{task.speed:,.0f}/s", style="dim")


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with rate and time left.

    Args:
        label: Text in front of the bar.
        total: Number of items.

    Yields:
        Function that advances the bar by a number of items.
    """
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total)
        yield lambda n: progress.advance(task, n)


def map_with_progress(label: str) -> Callable[[Callable[..., Any], Iterable[Any]], list[Any]]:
    """Make a `map_fn` that runs jobs one after the other in this process and shows a progress bar.

    The bar counts the `num_items` of each job, or one per job without that attribute.
    """

    def map_fn(function: Callable[..., Any], jobs: Iterable[Any]) -> list[Any]:
        jobs = list(jobs)
        sizes = [getattr(job, "num_items", 1) for job in jobs]
        results = []
        with progress_bar(label, sum(sizes)) as advance:
            for job, size in zip(jobs, sizes, strict=True):
                results.append(function(job))
                advance(size)
        return results

    return map_fn
