"""Write the hits of a query as an HTML page that needs no other file, or as one PNG image. Used by `tern search`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from data.io import atomic_write, write_text
from data.text import printable
from pipeline.pages.cards import THUMBNAIL, make_cards, make_thumbnail
from pipeline.pages.render import render_page
from pipeline.search.hits import Hit

MARGIN, HEADER, CAPTION = 12, 48, 62  # pixels: around a cell, above the cells, below a thumbnail


def write_gallery(path: Path, query: str, hits: Sequence[Hit], weak: Sequence[Hit] = ()) -> Path:
    """Write the hits of a query to a page or an image.

    Args:
        path: File to write; it ends in `.html` or `.png`.
        query: Title.
        hits: Hits, best first.
        weak: Further hits that are probably not right; a page has them apart.

    Returns:
        The path.

    Raises:
        ValueError: The path has another ending.
    """
    path = Path(path)
    if path.suffix.lower() == ".html":
        page = render_page("gallery.html", query=query, hits=make_cards(hits), weak=make_cards(weak))
        return write_text(path, page)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} ends in neither .html nor .png. Pass a name with one of these endings.")
    with atomic_write(path) as temporary:
        render_contact_sheet(query, (*hits, *weak)).save(temporary)
    return path


def render_contact_sheet(query: str, hits: Sequence[Hit], columns: int = 4) -> Image.Image:
    """Draw the hits of a query as one image: thumbnails with score and first caption.

    Args:
        query: Text of the query; the heading.
        hits: Hits, best first.
        columns: Number of thumbnails per row; at least 1.
    """
    width, height = THUMBNAIL
    cell = height + CAPTION
    rows = -(-len(hits) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, HEADER + rows * cell), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((14, 12), printable(query), fill="black", font_size=22)
    for number, hit in enumerate(hits):
        x, y = MARGIN + number % columns * (width + MARGIN), HEADER + number // columns * cell
        sheet.paste(make_thumbnail(hit), (x, y))
        text = textwrap.fill(printable(hit.captions[0] if hit.captions else hit.id), 50, max_lines=2, placeholder=" …")
        draw.text((x, y + height + 4), f"{number + 1}.  {hit.score:.3f}", fill="#666666", font_size=13)
        draw.multiline_text((x, y + height + 21), text, fill="black", font_size=13)
    return sheet
