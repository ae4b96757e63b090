"""Hits to look at: an HTML page that needs no other file, or one PNG."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from data.io import atomic_write, write_text
from pipeline.pages.cards import THUMBNAIL, make_card, make_thumbnail, templates
from pipeline.search.hits import Hit


def write_gallery(path: Path, query: str, hits: list[Hit]) -> Path:
    """Write hits as .html or .png, by the ending of `path`. Raises ValueError for any other."""
    path = Path(path)
    if path.suffix.lower() == ".html":
        page = templates.get_template("gallery.html").render(query=query, cards=[make_card(hit) for hit in hits])
        return write_text(path, page)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a gallery ends in .html or .png.")
    with atomic_write(path) as temporary:
        render_contact_sheet(query, hits).save(temporary)
    return path


def render_contact_sheet(query: str, hits: list[Hit], columns: int = 4) -> Image.Image:
    """Hits as one picture: thumbnails with score and first caption, `columns` a row."""
    width, height = THUMBNAIL
    cell = height + 62
    rows = -(-len(hits) // columns)
    sheet = Image.new("RGB", (columns * (width + 12) + 12, 48 + rows * cell), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((14, 12), query, fill="black", font_size=22)
    for number, hit in enumerate(hits):
        x, y = 12 + number % columns * (width + 12), 48 + number // columns * cell
        sheet.paste(make_thumbnail(hit), (x, y))
        text = textwrap.fill(hit.captions[0] if hit.captions else hit.id, 50, max_lines=2, placeholder=" …")
        draw.text((x, y + height + 4), f"{number + 1}.  {hit.score:.3f}", fill="#666666", font_size=13)
        draw.multiline_text((x, y + height + 21), text, fill="black", font_size=13)
    return sheet
