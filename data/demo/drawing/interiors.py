"""Backgrounds of rooms and sports fields, and `render_background` for all places."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops

from data.demo.drawing import backgrounds
from data.demo.drawing.canvas import SUPERSAMPLE, Canvas
from data.demo.drawing.sprites import DARK_WOOD


def draw_kitchen(canvas: Canvas) -> None:
    """Draw cabinets, tiles, a window and a counter."""
    wall = ((240, 226, 190), (206, 226, 222), (236, 214, 206), (220, 224, 232))[int(canvas.uniform(0, 4))]
    wood = ((186, 128, 76), (240, 240, 236), (120, 152, 160), (160, 98, 66))[int(canvas.uniform(0, 4))]
    edge = tuple(c * 3 // 4 for c in wood)
    canvas.draw.rectangle((0, 0, canvas.w, canvas.h), fill=canvas.jitter_color(wall, 6))
    top = round(0.62 * canvas.h)
    for x in range(0, canvas.w, 44):
        canvas.draw.line((x, 0.25 * canvas.h, x, top), fill=tuple(c - 14 for c in wall), width=2)
    for k in range(5):
        y = 0.25 * canvas.h + k * (top - 0.25 * canvas.h) / 5
        canvas.draw.line((0, y, canvas.w, y), fill=tuple(c - 14 for c in wall), width=2)
    window = canvas.uniform(0.1, 0.6) * canvas.w
    for i in range(5):
        left = canvas.w * i / 5
        canvas.draw.rectangle((left + 3, 0, left + canvas.w / 5 - 3, 0.22 * canvas.h), fill=wood, outline=edge, width=3)
        canvas.draw.rectangle(
            (left + 3, top + 26, left + canvas.w / 5 - 3, 0.84 * canvas.h), fill=wood, outline=edge, width=3
        )
        canvas.draw.ellipse((left + canvas.w / 10 - 6, top + 40, left + canvas.w / 10 + 6, top + 52), fill=(90, 90, 94))
    canvas.draw.rectangle(
        (window, 0.05 * canvas.h, window + 150, 0.4 * canvas.h), fill=(176, 218, 244), outline=(250, 250, 250), width=9
    )
    canvas.draw.rectangle((0, top, canvas.w, top + 24), fill=canvas.jitter_color((92, 86, 86), 20))
    canvas.fill_gradient(round(0.84 * canvas.h), canvas.h, (196, 176, 150), (222, 204, 178))
    for x in range(-60, canvas.w, 70):
        canvas.draw.line((x + 40, 0.84 * canvas.h, x, canvas.h), fill=(180, 160, 134), width=3)


def draw_living_room(canvas: Canvas) -> None:
    """Draw a wall with window and picture, floor and rug."""
    wall = ((232, 214, 186), (190, 210, 200), (200, 204, 226), (238, 206, 190))[int(canvas.uniform(0, 4))]
    canvas.draw.rectangle((0, 0, canvas.w, canvas.hz + 60), fill=canvas.jitter_color(wall, 8))
    floor = canvas.hz + 60
    canvas.fill_gradient(floor, canvas.h, canvas.jitter_color((172, 116, 72), 10), (196, 140, 92))
    for k in range(7):
        y = floor + (canvas.h - floor) * (k / 7) ** 1.3
        canvas.draw.line((0, y, canvas.w, y), fill=(148, 98, 60), width=2)
    canvas.draw.rectangle((0, floor - 14, canvas.w, floor), fill=(250, 246, 238))
    x = canvas.uniform(0.05, 0.6) * canvas.w
    canvas.draw.rectangle((x, 40, x + 200, floor - 90), fill=(170, 214, 242), outline=(250, 250, 248), width=12)
    canvas.draw.line((x + 100, 40, x + 100, floor - 90), fill=(250, 250, 248), width=8)
    cloth = canvas.jitter_color((190, 84, 84) if canvas.uniform(0, 1) < 0.5 else (84, 120, 170), 20)
    for side in (x - 44, x + 190):
        canvas.draw.rectangle((side, 26, side + 54, floor - 60), fill=cloth)
    frame = (x + canvas.w * 0.5) % (canvas.w - 130)
    canvas.draw.rectangle(
        (frame, 70, frame + 110, 150), fill=canvas.jitter_color((120, 150, 130), 50), outline=DARK_WOOD, width=8
    )
    rug = canvas.uniform(0.15, 0.4) * canvas.w
    canvas.draw.ellipse(
        (rug, floor + 60, rug + 420, canvas.h - 16),
        fill=canvas.jitter_color((170, 70, 84) if canvas.uniform(0, 1) < 0.5 else (84, 110, 160), 24),
    )


def draw_stage(canvas: Canvas) -> None:
    """Draw curtains, beams of light and a wooden floor."""
    back = ((60, 34, 74), (34, 40, 82), (44, 36, 40))[int(canvas.uniform(0, 3))]
    canvas.fill_gradient(0, canvas.hz + 40, (back[0] // 2, back[1] // 2, back[2] // 2), back)
    floor = canvas.hz + 40
    canvas.fill_gradient(floor, canvas.h, (126, 84, 52), (176, 122, 78))
    for i in range(-6, 7):
        canvas.draw.line((canvas.w / 2 + i * 60, floor, canvas.w / 2 + i * 150, canvas.h), fill=(110, 70, 44), width=2)
    beam = Image.new("RGB", canvas.image.size)
    light = Canvas(beam, canvas.w, canvas.h, canvas.hz, canvas.rng)
    for i in range(3):
        x, foot = canvas.w * (i + canvas.uniform(0.3, 0.7)) / 3, canvas.w * (i + canvas.uniform(0.2, 0.8)) / 3
        color = ((70, 66, 40), (66, 36, 60), (36, 56, 70))[int(canvas.uniform(0, 3))]
        light.draw.polygon(
            [(x - 10, 0), (x + 10, 0), (foot + 110, canvas.h * 0.8), (foot - 110, canvas.h * 0.8)], fill=color
        )
        light.draw.ellipse((foot - 110, canvas.h * 0.74, foot + 110, canvas.h * 0.87), fill=color)
    canvas.image.paste(ImageChops.add(canvas.image, beam))
    red = canvas.jitter_color((170, 26, 40), 14)
    for i in range(5):
        fold = tuple(c * (8 if i % 2 else 10) // 10 for c in red)
        for x in (i * 20, canvas.w - i * 20 - 20):
            canvas.draw.rectangle((x, 0, x + 20, floor + 40), fill=fold)
    for i in range(16):
        x = canvas.w * i / 16
        canvas.draw.ellipse(
            (x - 6, -50, x + canvas.w / 16 + 6, 44), fill=tuple(c * (9 if i % 2 else 10) // 10 for c in red)
        )


def _draw_stands(canvas: Canvas) -> None:
    canvas.draw.rectangle((0, canvas.hz - 70, canvas.w, canvas.hz), fill=canvas.jitter_color((120, 126, 140), 12))
    crowd = ((214, 70, 66), (240, 240, 240), (66, 100, 190), (240, 200, 80), (60, 60, 70))
    for row in range(4):
        for i in range(canvas.w // 16):
            if canvas.rng.random() < 0.7:
                x, y = i * 16 + (row % 2) * 8, canvas.hz - 66 + row * 16
                canvas.draw.ellipse((x, y, x + 9, y + 11), fill=crowd[int(canvas.uniform(0, 5))])
    canvas.draw.rectangle((0, canvas.hz - 8, canvas.w, canvas.hz + 10), fill=canvas.jitter_color((40, 90, 70), 16))


def draw_baseball_field(canvas: Canvas) -> None:
    """Draw the diamond in front of full stands."""
    canvas.draw_sky()
    _draw_stands(canvas)
    canvas.fill_gradient(canvas.hz + 8, canvas.h, (98, 172, 78), canvas.jitter_color((74, 146, 58), 8))
    center, near = canvas.w * canvas.uniform(0.4, 0.6), 0.97 * canvas.h
    far, side = canvas.hz + 0.14 * (canvas.h - canvas.hz), 0.42 * canvas.w
    level = (near + far) / 2
    canvas.draw.polygon(
        [(center, near + 30), (center - side - 60, level), (center, far - 16), (center + side + 60, level)],
        fill=canvas.jitter_color((204, 146, 92), 8),
    )
    canvas.draw.polygon(
        [(center, near - 60), (center - side + 70, level), (center, far + 26), (center + side - 70, level)],
        fill=(88, 160, 68),
    )
    canvas.draw.ellipse((center - 44, level - 18, center + 44, level + 18), fill=(204, 146, 92))
    for x, y in ((center, near - 14), (center - side, level), (center + side, level), (center, far)):
        canvas.draw.polygon([(x, y - 9), (x + 20, y), (x, y + 9), (x - 20, y)], fill=(252, 252, 250))


def draw_soccer_field(canvas: Canvas) -> None:
    """Draw stripes of grass, lines and a goal in front of full stands."""
    canvas.draw_sky()
    _draw_stands(canvas)
    for k in range(8):
        low, high = (canvas.hz + 8 + (canvas.h - canvas.hz) * (i / 8) ** 1.5 for i in (k, k + 1))
        canvas.draw.rectangle((0, low, canvas.w, high + 1), fill=((84, 168, 70), (70, 150, 58))[k % 2])
    white, x = (244, 248, 244), canvas.w * canvas.uniform(0.3, 0.7)
    canvas.draw.line((0, canvas.hz + 26, canvas.w, canvas.hz + 26), fill=white, width=4)
    canvas.draw.line((x, canvas.hz + 26, x + canvas.uniform(-100, 100), canvas.h), fill=white, width=5)
    canvas.draw.ellipse((x - 170, 0.74 * canvas.h - 50, x + 170, 0.74 * canvas.h + 50), outline=white, width=5)
    goal = 0.04 * canvas.w if canvas.uniform(0, 1) < 0.5 else 0.74 * canvas.w
    canvas.draw.rectangle((goal, canvas.hz - 74, goal + 0.22 * canvas.w, canvas.hz + 30), outline=white, width=7)
    for i in range(1, 10):
        post = goal + 0.022 * canvas.w * i
        canvas.draw.line((post, canvas.hz - 70, post, canvas.hz + 28), fill=(214, 222, 220), width=1)


DRAW_FUNCTIONS: dict[str, Callable[[Canvas], None]] = {
    "street": backgrounds.draw_street,
    "beach": backgrounds.draw_beach,
    "park": backgrounds.draw_park,
    "lake": backgrounds.draw_lake,
    "mountain": backgrounds.draw_mountain,
    "snow": backgrounds.draw_snow,
    "kitchen": draw_kitchen,
    "stage": draw_stage,
    "baseball field": draw_baseball_field,
    "soccer field": draw_soccer_field,
    "city": backgrounds.draw_city,
    "forest": backgrounds.draw_forest,
    "desert": backgrounds.draw_desert,
    "living room": draw_living_room,
    "farm": backgrounds.draw_farm,
}


def render_background(place: str, size: tuple[int, int], horizon: float, rng: Generator) -> Image.Image:
    """Render an empty place.

    Args:
        place: One of `PLACES`.
        size: Width and height, pixels.
        horizon: Row of the horizon, as a fraction of the height.
        rng: Random generator of the variations.

    Returns:
        RGB image.
    """
    w, h = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    canvas = Canvas(Image.new("RGB", (w, h)), w, h, round(horizon * h), rng)
    DRAW_FUNCTIONS[place](canvas)
    picture = canvas.image.reduce(SUPERSAMPLE)
    grain = rng.integers(0, 20, (size[1] // 60, size[0] // 60), dtype=np.uint8)
    veil = Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC)
    return ImageChops.subtract(picture, Image.merge("RGB", (veil, veil, veil)))
