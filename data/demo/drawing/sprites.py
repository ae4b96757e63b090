"""Sprites: images of the Noto Color Emoji font (SIL OFL 1.1), and two things drawn by code."""

from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

SPRITES = Path(__file__).parents[1] / "sprites"
WOOD, DARK_WOOD = (176, 118, 66), (120, 76, 40)


def sprite_path(name: str) -> Path:
    """Return the path of the sprite of a kind."""
    return SPRITES / f"{name.replace(' ', '-')}.png"


@cache
def _load_sprite(name: str) -> Image.Image:
    """Load a sprite in its original size, RGBA."""
    if name == "baseball bat":
        return _render_bat()
    if name == "bench":
        return _render_bench()
    path = sprite_path(name)
    if not path.is_file():
        raise FileNotFoundError(f"No sprite of {name!r} at {path}. Run `python -m data.demo.drawing.cut_sprites`.")
    return Image.open(path).convert("RGBA")


def aspect_ratio(name: str) -> float:
    """Return width divided by height of a sprite."""
    picture = _load_sprite(name)
    return picture.width / picture.height


def render_sprite(
    name: str, height: float, flip: bool = False, degrees: float = 0.0, squash: float = 1.0
) -> Image.Image:
    """Render a thing.

    Args:
        name: Kind of thing.
        height: Height before flattening and rotation, pixels.
        flip: Whether to mirror it.
        degrees: Rotation, counterclockwise.
        squash: Factor of the height, below 1 for a flattened thing.

    Returns:
        RGBA image.
    """
    picture = _load_sprite(name)
    size = max(2, round(height * aspect_ratio(name))), max(2, round(height * squash))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture.rotate(degrees, Image.Resampling.BICUBIC, expand=True) if degrees else picture


def _render_bat() -> Image.Image:
    canvas = Image.new("RGBA", (60, 360))
    draw = ImageDraw.Draw(canvas)
    draw.polygon([(24, 350), (36, 350), (48, 110), (46, 20), (14, 20), (12, 110)], fill=(206, 148, 84, 255))
    draw.ellipse((13, 2, 47, 40), fill=(206, 148, 84, 255))
    draw.polygon([(24, 350), (29, 350), (24, 110), (22, 20), (14, 20), (12, 110)], fill=(232, 182, 120, 255))
    draw.rounded_rectangle((23, 260, 37, 346), 4, fill=(60, 48, 44, 255))
    draw.ellipse((19, 342, 41, 358), fill=(*DARK_WOOD, 255))
    return canvas.reduce(3)


def _render_bench() -> Image.Image:
    canvas = Image.new("RGBA", (600, 300))
    draw = ImageDraw.Draw(canvas)
    for x in (60, 510):
        draw.rectangle((x, 20, x + 26, 296), fill=(70, 74, 80, 255))
    for y in (14, 62, 110):
        draw.rounded_rectangle((6, y, 594, y + 34), 8, fill=(*WOOD, 255))
    draw.rounded_rectangle((0, 168, 600, 206), 10, fill=(196, 136, 80, 255))
    draw.rectangle((6, 206, 594, 222), fill=(*DARK_WOOD, 255))
    return canvas.reduce(3)
