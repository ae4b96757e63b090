"""Progress of `pipeline`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True)


class RateColumn(ProgressColumn):
    """Items a second, averaged over the last of them."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        if not task.speed:
            return Text("")
        slow = f"{1 / task.speed:,.1f} s each" if task.speed < 1 else f"{task.speed:,.1f}/s"
        return Text(slow if task.speed < 10 else f"{task.speed:,.0f}/s", style="dim")


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left; gives the function that moves it by n items."""
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
