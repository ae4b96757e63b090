"""Output of the commands: every line that `tern` prints goes through `echo`, which makes foreign text visible."""

import typer

from data.text import printable


def echo(*lines: str, err: bool = False, color: str | None = None) -> None:
    """Print each text as exactly one line of visible characters.

    Texts contain names of files, ids, captions and values of third-party files, which may hold anything. A line break
    or an escape sequence in one of them must neither forge a line nor move the cursor.

    Args:
        lines: Texts without a line break at the end; other line breaks are shown as `\\n`.
        err: Whether to print to standard error.
        color: Name of the color on a terminal.
    """
    for line in lines:
        typer.secho(printable(line), err=err, fg=color)
