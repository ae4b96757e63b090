"""Cards of `pipeline`."""

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image, ImageDraw, ImageOps

from data.images import load_image
from pipeline.search.hits import Hit

THUMBNAIL = (360, 270)  # pixels
COLORS = ("#e4572e", "#17bebb")  # of the first and second region that matched
# Autoescaping: captions and file names come from data files.
templates = Environment(loader=PackageLoader("pipeline.pages"), autoescape=select_autoescape(), trim_blocks=True)


def make_thumbnail(hit: Hit) -> Image.Image:
    """A small picture of a hit, with the regions that matched drawn in; gray where the file is gone."""
    try:
        full = Image.fromarray(load_image(hit.path))
    except (ValueError, OSError):
        full = Image.new("RGB", THUMBNAIL, "#bbbbbb")
    small = ImageOps.contain(full, THUMBNAIL)
    scale, draw = small.width / full.width, ImageDraw.Draw(small)
    for region, color in zip(hit.regions, COLORS, strict=False):
        x1, y1, x2, y2 = (value * scale for value in region.box)
        draw.rectangle([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], outline=color, width=3)
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
    labels = [(r.label, color) for r, color in zip(hit.regions, COLORS, strict=False) if r.label]
    picture = picture or to_data_uri(make_thumbnail(hit))
    return {"hit": hit, "picture": picture, "labels": labels, "right": right, "rank": rank}
