"""Render the sprites of the demo scenes from the Noto Color Emoji font.

    python -m data.demo.drawing.cut_sprites PATH/TO/NotoColorEmoji.ttf

Requires Pillow with raqm. The images remain under the license of the font (sprites/LICENSE-OFL.txt).
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.demo.drawing.sprites import sprite_path
from data.demo.scenes.kinds import KINDS

NATIVE = 109  # the font has bitmaps of this size only
TALLEST = 116  # pixels; most things are drawn smaller
COLORS = 200


def render_emoji(font: ImageFont.FreeTypeFont, emoji: str) -> Image.Image:
    """Render an emoji, cropped to its visible pixels, RGBA.

    Raises:
        ValueError: The font does not have the emoji.
    """
    canvas = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((20, 20), emoji + "\ufe0f", font=font, embedded_color=True)
    box = canvas.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox()
    if box is None:
        raise ValueError(f"The font has no image of {emoji!r}. Pass the path of NotoColorEmoji.ttf.")
    picture = canvas.crop(box)
    picture.thumbnail((TALLEST, TALLEST), Image.Resampling.LANCZOS)
    return picture


def remove_background(picture: Image.Image, kind: str) -> Image.Image:
    """Make the water behind the surfer and the snow behind the skier transparent: the scene has its own."""
    if kind not in ("surfer", "skier"):
        return picture
    pixels = np.array(picture)
    red, green, blue = (pixels[..., c].astype(int) for c in range(3))
    scenery = (blue > red + 60) & (blue > 140) if kind == "surfer" else (red > 190) & (green > 200) & (blue > 200)
    pixels[..., 3][scenery] = 0
    cleared = Image.fromarray(pixels)
    return cleared.crop(cleared.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())


def main(path: str) -> None:
    """Write one quantized PNG file per kind that has an emoji."""
    font = ImageFont.truetype(path, NATIVE)
    for kind in KINDS.values():
        if kind.emoji:
            picture = remove_background(render_emoji(font, kind.emoji), kind.name).quantize(
                COLORS, method=Image.Quantize.FASTOCTREE
            )
            picture.save(sprite_path(kind.name), optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
