"""Hits to look at: an HTML page that needs no other file, or one PNG."""

import base64
import io
import textwrap
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image, ImageDraw, ImageOps

from data.files import atomic_write, write_text
from extractors.images import load_image
from pipeline.search import Hit

THUMBNAIL = (360, 270)  # pixels
COLOURS = ("#e4572e", "#17bebb")  # of the first and second region that matched

# Autoescaping: captions and file names come from data files.
templates = Environment(loader=PackageLoader("pipeline"), autoescape=select_autoescape(), trim_blocks=True)


def make_thumbnail(hit: Hit) -> Image.Image:
    """A small picture of a hit, with the regions that matched drawn in; grey where the file is gone."""
    try:
        full = Image.fromarray(load_image(hit.path))
    except (ValueError, OSError):
        full = Image.new("RGB", THUMBNAIL, "#bbbbbb")
    small = ImageOps.contain(full, THUMBNAIL)
    scale, draw = small.width / full.width, ImageDraw.Draw(small)
    for region, colour in zip(hit.regions, COLOURS, strict=False):
        x1, y1, x2, y2 = (value * scale for value in region.box)
        draw.rectangle([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], outline=colour, width=3)
    return small


def to_data_uri(picture: Image.Image) -> str:
    """A picture as text to put into a page."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_card(
    hit: Hit, right: bool | None = None, rank: int | None = None, picture: str | None = None
) -> dict[str, Any]:
    """What the templates show of a hit.

    `right` frames it in green or leaves it plain; `rank` is the number before it, if not its place in the row;
    `picture` is its `data_uri`, if that was made before.
    """
    labels = [(r.label, colour) for r, colour in zip(hit.regions, COLOURS, strict=False) if r.label]
    picture = picture or to_data_uri(make_thumbnail(hit))
    return {"hit": hit, "picture": picture, "labels": labels, "right": right, "rank": rank}


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
