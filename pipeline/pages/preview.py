"""Draw thumbnails of hits on a terminal: with kitty's protocol, as Sixels (iTerm2, xterm, foot), or as half blocks."""

import logging
import os
from typing import Any

from rich.console import Console

from pipeline.pages.cards import make_thumbnail
from pipeline.search.hits import Hit

NUM_LINES = 12  # of a thumbnail


class TerminalPreview:
    """Draws thumbnails on a terminal.

    Args:
        make_image: Class of `textual_image.renderable`, one per protocol.
        console: Console of the terminal.
    """

    def __init__(self, make_image: Any, console: Console) -> None:
        self._make_image, self._console = make_image, console

    def print_thumbnail(self, hit: Hit) -> None:
        """Draw the thumbnail of a hit with its regions outlined, `NUM_LINES` high; gray if its file is unreadable."""
        self._console.print(self._make_image(make_thumbnail(hit), width="auto", height=NUM_LINES))


def open_terminal_preview() -> TerminalPreview:
    """Ask the terminal what it can draw; standard input and output must be terminals.

    Raises:
        ImportError: The extra `preview` is not installed.
        ValueError: The terminal has neither graphics nor colors, or no size.
    """
    size = os.get_terminal_size()
    if not (size.columns and size.lines):  # the library would divide by it
        raise ValueError(
            f"The terminal reports {size.columns} columns and {size.lines} rows, so that --preview knows no size. Run "
            "`stty columns 80 rows 24`, with the numbers of your terminal."
        )
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # it warns of cells of unknown size
    try:
        from textual_image.renderable import HalfcellImage, Image  # lazy: it asks the terminal when it is imported
    except ImportError as error:
        raise ImportError(
            "--preview needs the extra `preview`. Run `python -m pip install -c constraints.txt -e '.[preview]'`."
        ) from error
    if Image is not HalfcellImage:
        # kitty finds the number of an image in its 24-bit color, so the colors must not be reduced.
        return TerminalPreview(Image, Console(force_terminal=True, color_system="truecolor"))
    console = Console()
    if console.color_system is None or console.no_color:
        raise ValueError(
            "--preview needs a terminal with graphics or colors, but TERM or NO_COLOR says that it has none. Leave it "
            "out, or write a contact sheet with `--gallery hits.png`."
        )
    return TerminalPreview(Image, console)
