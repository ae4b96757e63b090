"""Backgrounds of the outdoor places, with random variations."""

import math

from data.demo.drawing.canvas import Canvas, Color


def _draw_houses(canvas: Canvas, base: int, walls: tuple[Color, ...], glass: tuple[Color, ...], tall: float) -> None:
    x = -canvas.uniform(0, 60)
    while x < canvas.w:
        wide, top = canvas.uniform(90, 190), base - canvas.uniform(0.5, 1.0) * tall
        canvas.draw.rectangle(
            (x, top, x + wide, base), fill=canvas.jitter_color(walls[int(canvas.uniform(0, len(walls)))], 14)
        )
        columns, step = max(2, int(wide // 40)), 44
        for row in range(int((base - top - 20) // step)):
            for column in range(columns):
                left, up = x + (column + 0.3) * wide / columns, top + 16 + row * step
                canvas.draw.rectangle(
                    (left, up, left + wide / columns * 0.45, up + 24), fill=glass[int(canvas.uniform(0, len(glass)))]
                )
        x += wide + canvas.uniform(-2, 14)


def draw_street(canvas: Canvas) -> None:
    """Draw houses, two sidewalks and a road."""
    base = canvas.hz + int(0.06 * canvas.h)
    canvas.draw_sky()
    canvas.draw.rectangle((0, canvas.hz, canvas.w, base), fill=(206, 226, 236))
    walls = ((196, 120, 92), (214, 186, 146), (170, 160, 156), (226, 208, 176), (150, 96, 84), (158, 176, 190))
    _draw_houses(canvas, base, walls, ((104, 140, 170), (70, 96, 120), (236, 226, 180)), 0.42 * canvas.h)
    canvas.draw.rectangle((0, base, canvas.w, canvas.h), fill=canvas.jitter_color((186, 182, 176), 8))
    top, low = canvas.hz + int(0.12 * canvas.h), int(0.95 * canvas.h)
    canvas.fill_gradient(top, low, canvas.jitter_color((104, 106, 112), 10), (84, 86, 92))
    canvas.draw.rectangle((0, top - 6, canvas.w, top), fill=(212, 208, 200))
    canvas.draw.rectangle((0, low, canvas.w, low + 7), fill=(212, 208, 200))
    center, x = (top + low) // 2, -canvas.uniform(0, 80)
    while x < canvas.w:
        canvas.draw.rectangle((x, center - 4, x + 70, center + 5), fill=(236, 226, 170))
        x += 130


def draw_city(canvas: Canvas) -> None:
    """Draw a street at night: lit windows, moon and stars."""
    canvas.fill_gradient(0, canvas.h, canvas.jitter_color((14, 18, 50), 6), (54, 46, 92))
    for x, y in canvas.rng.random((40, 2)).tolist():
        canvas.draw.ellipse(
            (x * canvas.w, y * canvas.hz * 0.7, x * canvas.w + 3, y * canvas.hz * 0.7 + 3), fill=(240, 240, 214)
        )
    x, r = canvas.uniform(0.1, 0.9) * canvas.w, canvas.uniform(20, 30)
    canvas.draw.ellipse((x - r, 40 - r + 20, x + r, 60 + r), fill=(246, 240, 206))
    lit = ((255, 220, 120), (250, 200, 96), (34, 36, 66), (34, 36, 66), (150, 190, 230))
    _draw_houses(
        canvas, canvas.hz + int(0.1 * canvas.h), ((40, 42, 74), (52, 48, 84), (30, 36, 62)), lit, 0.46 * canvas.h
    )
    canvas.fill_gradient(canvas.hz + int(0.1 * canvas.h), canvas.h, (62, 60, 84), (44, 42, 60))
    canvas.draw.rectangle(
        (0, canvas.hz + 0.16 * canvas.h, canvas.w, canvas.hz + 0.165 * canvas.h), fill=(120, 116, 140)
    )
    for i in range(4):
        x, y = canvas.w * (i + canvas.uniform(0.2, 0.8)) / 4, canvas.hz + canvas.uniform(0.22, 0.4) * canvas.h
        canvas.draw.ellipse((x - 110, y - 14, x + 110, y + 14), fill=(84, 78, 88))


def draw_beach(canvas: Canvas) -> None:
    """Draw sea, surf and sand."""
    canvas.draw_sky((70, 160, 240), (200, 236, 252), 2)
    shore = canvas.hz + int(0.17 * canvas.h)
    canvas.fill_gradient(canvas.hz, shore, canvas.jitter_color((26, 110, 190), 14), (72, 190, 214))
    canvas.fill_gradient(shore, canvas.h, canvas.jitter_color((244, 222, 166), 8), (228, 194, 130))
    phase = canvas.uniform(0, 6)
    for k, color in ((10, (222, 202, 152)), (-2, (250, 252, 252))):
        line = [(x, shore + k + 7 * math.sin(x / 70 + phase)) for x in range(0, canvas.w + 20, 20)]
        canvas.draw.line(line, fill=color, width=9)
    for _ in range(9):
        x, y = canvas.uniform(0, canvas.w), canvas.uniform(canvas.hz + 8, shore - 12)
        canvas.draw.line((x, y, x + canvas.uniform(20, 60), y), fill=(190, 226, 240), width=2)
    canvas.draw_dots(60, shore + 20, canvas.h, (216, 182, 122), 7)


def draw_park(canvas: Canvas) -> None:
    """Draw grass, a path and distant trees."""
    canvas.draw_sky()
    canvas.draw_row_of_trees(canvas.draw_round_tree, 9, canvas.hz + 8, (90, 170), ((74, 144, 66), 22))
    canvas.fill_gradient(canvas.hz, canvas.h, canvas.jitter_color((126, 190, 86), 12), (84, 156, 58))
    bend, at = canvas.uniform(-0.5, 0.5) * canvas.w, canvas.uniform(0.2, 0.8) * canvas.w
    canvas.draw.polygon(
        [(at - 14, canvas.hz), (at + 14, canvas.hz), (at + bend + 190, canvas.h), (at + bend - 130, canvas.h)],
        fill=canvas.jitter_color((222, 202, 160), 8),
    )
    canvas.draw_dots(110, canvas.hz + 10, canvas.h, (70, 140, 50), 7)
    canvas.draw_dots(14, canvas.hz + 50, canvas.h, (240, 230, 120), 7)


def draw_lake(canvas: Canvas) -> None:
    """Draw hills, water and a green shore."""
    canvas.draw_sky((96, 160, 226), (222, 236, 244))
    canvas.draw_ridge(canvas.hz + 2, canvas.uniform(50, 130), canvas.jitter_color((128, 150, 176), 14))
    canvas.draw_ridge(canvas.hz + 2, canvas.uniform(24, 50), canvas.jitter_color((84, 128, 92), 12), 14)
    shore = canvas.hz + int(0.26 * canvas.h)
    canvas.fill_gradient(canvas.hz, shore, canvas.jitter_color((92, 158, 208), 12), (38, 104, 170))
    for _ in range(22):
        x, y = canvas.uniform(0, canvas.w), canvas.uniform(canvas.hz + 6, shore - 4)
        canvas.draw.line((x, y, x + canvas.uniform(20, 90), y), fill=(150, 200, 230), width=2)
    phase = canvas.uniform(0, 6)
    edge = [(x, shore + 6 * math.sin(x / 90 + phase)) for x in range(0, canvas.w + 20, 20)]
    canvas.draw.polygon([(0, canvas.h), *edge, (canvas.w, canvas.h)], fill=canvas.jitter_color((116, 166, 78), 12))
    canvas.draw.line(edge, fill=(206, 188, 140), width=12)
    canvas.draw_dots(80, shore + 14, canvas.h, (90, 140, 58), 8)


def draw_mountain(canvas: Canvas) -> None:
    """Draw peaks with snow over rough ground."""
    canvas.draw_sky((84, 150, 226), (214, 232, 246))
    peaks = max(2, int(canvas.uniform(2, 5)))
    for i in range(peaks):
        x, tall, wide = (
            canvas.w * (i + canvas.uniform(0.2, 0.8)) / peaks,
            canvas.uniform(0.6, 0.95) * canvas.hz,
            canvas.uniform(0.3, 0.45) * canvas.w,
        )
        top = canvas.hz - tall
        canvas.draw.polygon(
            [(x, top), (x - wide, canvas.hz + 4), (x + wide, canvas.hz + 4)],
            fill=canvas.jitter_color((112, 116, 136), 16),
        )
        canvas.draw.polygon([(x, top), (x + wide, canvas.hz + 4), (x + wide * 0.2, canvas.hz + 4)], fill=(92, 96, 118))
        cap = [
            (x - wide * 0.3, top + tall * 0.3),
            (x - wide * 0.08, top + tall * 0.22),
            (x + wide * 0.1, top + tall * 0.32),
        ]
        canvas.draw.polygon([(x, top), *cap, (x + wide * 0.28, top + tall * 0.28)], fill=(248, 250, 254))
    canvas.fill_gradient(canvas.hz, canvas.h, canvas.jitter_color((140, 150, 112), 10), (120, 112, 86))
    canvas.draw_dots(90, canvas.hz + 6, canvas.h, (134, 128, 116), 12)
    canvas.draw_dots(40, canvas.hz + 6, canvas.h, (104, 130, 80), 8)


def draw_snow(canvas: Canvas) -> None:
    """Draw white ground, firs and falling snow."""
    canvas.draw_sky((150, 186, 222), (230, 238, 246), 2)
    canvas.draw_ridge(canvas.hz + 4, canvas.uniform(20, 80), canvas.jitter_color((206, 218, 234), 8))
    canvas.draw_row_of_trees(canvas.draw_fir, 16, canvas.hz + 6, (40, 90), ((70, 104, 96), 18))
    canvas.fill_gradient(canvas.hz, canvas.h, (242, 246, 252), canvas.jitter_color((216, 228, 244), 6))
    canvas.draw_dots(50, canvas.hz + 14, canvas.h, (226, 234, 246), 26)
    for x, y in canvas.rng.random((90, 2)).tolist():
        canvas.draw.ellipse((x * canvas.w, y * canvas.h, x * canvas.w + 6, y * canvas.h + 6), fill=(255, 255, 255))


def draw_forest(canvas: Canvas) -> None:
    """Draw trunks and leaves over dark ground."""
    canvas.fill_gradient(0, canvas.hz + 10, canvas.jitter_color((150, 190, 130), 14), (90, 140, 84))
    for depth, color in ((0.6, (66, 104, 62)), (0.85, (46, 82, 48))):
        for i in range(11):
            x, wide = canvas.w * (i + canvas.uniform(0, 1)) / 11, canvas.uniform(10, 22) * depth
            canvas.draw.rectangle(
                (x - wide, 0, x + wide, canvas.hz + 20 * depth), fill=canvas.jitter_color((92, 70, 52), 14)
            )
            canvas.draw.ellipse(
                (x - 90, -60, x + 90, canvas.uniform(0.3, 0.7) * canvas.hz), fill=canvas.jitter_color(color, 12)
            )
    canvas.fill_gradient(canvas.hz + 6, canvas.h, canvas.jitter_color((94, 112, 60), 8), (78, 84, 48))
    canvas.draw_dots(120, canvas.hz + 10, canvas.h, (120, 96, 56), 9)
    canvas.draw_dots(60, canvas.hz + 10, canvas.h, (70, 118, 56), 14)


def draw_desert(canvas: Canvas) -> None:
    """Draw sun, dunes and sand."""
    canvas.draw_sky((96, 170, 232), (250, 226, 180), 1)
    x, r = canvas.uniform(0.1, 0.9) * canvas.w, 30
    canvas.draw.ellipse((x - r, 50, x + r, 50 + 2 * r), fill=(255, 240, 170))
    canvas.draw_ridge(canvas.hz + 4, canvas.uniform(40, 90), canvas.jitter_color((206, 140, 90), 12), 6)
    canvas.fill_gradient(canvas.hz, canvas.h, canvas.jitter_color((236, 184, 110), 10), (212, 142, 78))
    for k in range(3):
        base, phase = canvas.hz + (k + 0.5) * (canvas.h - canvas.hz) / 3, canvas.uniform(0, 6)
        line = [(x, base + 16 * math.sin(x / canvas.uniform(110, 118) + phase)) for x in range(0, canvas.w + 30, 30)]
        canvas.draw.line(line, fill=(204, 138, 76), width=4)
    canvas.draw_dots(30, canvas.hz + 10, canvas.h, (190, 124, 70), 8)


def draw_farm(canvas: Canvas) -> None:
    """Draw fields, a fence and a red barn."""
    canvas.draw_sky()
    canvas.draw_ridge(canvas.hz + 4, canvas.uniform(20, 60), canvas.jitter_color((120, 168, 92), 10), 6)
    for k in range(6):
        top = canvas.hz + k * (canvas.h - canvas.hz) // 6
        canvas.fill_gradient(
            top,
            canvas.hz + (k + 1) * (canvas.h - canvas.hz) // 6 + 1,
            canvas.jitter_color(((214, 186, 96), (150, 182, 80))[k % 2], 8),
            (150, 168, 70),
        )
    x, tall = canvas.uniform(0.08, 0.72) * canvas.w, canvas.uniform(120, 160)
    base = canvas.hz + 20
    canvas.draw.rectangle((x, base - tall * 0.6, x + tall, base), fill=canvas.jitter_color((178, 52, 44), 10))
    canvas.draw.polygon(
        [(x - 8, base - tall * 0.58), (x + tall / 2, base - tall), (x + tall + 8, base - tall * 0.58)],
        fill=(110, 66, 58),
    )
    canvas.draw.rectangle(
        (x + tall * 0.32, base - tall * 0.38, x + tall * 0.68, base),
        fill=(240, 232, 220),
        outline=(120, 40, 36),
        width=5,
    )
    for i in range(12):
        at = canvas.w * i / 11
        canvas.draw.rectangle((at - 4, canvas.hz + 14, at + 4, canvas.hz + 56), fill=(240, 234, 222))
    for y in (22, 38):
        canvas.draw.rectangle((0, canvas.hz + y, canvas.w, canvas.hz + y + 6), fill=(240, 234, 222))
