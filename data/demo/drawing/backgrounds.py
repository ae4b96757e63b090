"""Backgrounds of the outdoor places, with random variations."""

import math

from data.demo.drawing.canvas import Canvas, Color


def _draw_houses(a: Canvas, base: int, walls: tuple[Color, ...], glass: tuple[Color, ...], tall: float) -> None:
    x = -a.uniform(0, 60)
    while x < a.w:
        wide, top = a.uniform(90, 190), base - a.uniform(0.5, 1.0) * tall
        a.draw.rectangle((x, top, x + wide, base), fill=a.jitter_color(walls[int(a.uniform(0, len(walls)))], 14))
        columns, step = max(2, int(wide // 40)), 44
        for row in range(int((base - top - 20) // step)):
            for column in range(columns):
                left, up = x + (column + 0.3) * wide / columns, top + 16 + row * step
                a.draw.rectangle(
                    (left, up, left + wide / columns * 0.45, up + 24), fill=glass[int(a.uniform(0, len(glass)))]
                )
        x += wide + a.uniform(-2, 14)


def draw_street(a: Canvas) -> None:
    """Draw houses, two sidewalks and a road."""
    base = a.hz + int(0.06 * a.h)
    a.draw_sky()
    a.draw.rectangle((0, a.hz, a.w, base), fill=(206, 226, 236))
    walls = ((196, 120, 92), (214, 186, 146), (170, 160, 156), (226, 208, 176), (150, 96, 84), (158, 176, 190))
    _draw_houses(a, base, walls, ((104, 140, 170), (70, 96, 120), (236, 226, 180)), 0.42 * a.h)
    a.draw.rectangle((0, base, a.w, a.h), fill=a.jitter_color((186, 182, 176), 8))
    top, low = a.hz + int(0.12 * a.h), int(0.95 * a.h)
    a.fill_gradient(top, low, a.jitter_color((104, 106, 112), 10), (84, 86, 92))
    a.draw.rectangle((0, top - 6, a.w, top), fill=(212, 208, 200))
    a.draw.rectangle((0, low, a.w, low + 7), fill=(212, 208, 200))
    center, x = (top + low) // 2, -a.uniform(0, 80)
    while x < a.w:
        a.draw.rectangle((x, center - 4, x + 70, center + 5), fill=(236, 226, 170))
        x += 130


def draw_city(a: Canvas) -> None:
    """Draw a street at night: lit windows, moon and stars."""
    a.fill_gradient(0, a.h, a.jitter_color((14, 18, 50), 6), (54, 46, 92))
    for x, y in a.rng.random((40, 2)).tolist():
        a.draw.ellipse((x * a.w, y * a.hz * 0.7, x * a.w + 3, y * a.hz * 0.7 + 3), fill=(240, 240, 214))
    x, r = a.uniform(0.1, 0.9) * a.w, a.uniform(20, 30)
    a.draw.ellipse((x - r, 40 - r + 20, x + r, 60 + r), fill=(246, 240, 206))
    lit = ((255, 220, 120), (250, 200, 96), (34, 36, 66), (34, 36, 66), (150, 190, 230))
    _draw_houses(a, a.hz + int(0.1 * a.h), ((40, 42, 74), (52, 48, 84), (30, 36, 62)), lit, 0.46 * a.h)
    a.fill_gradient(a.hz + int(0.1 * a.h), a.h, (62, 60, 84), (44, 42, 60))
    a.draw.rectangle((0, a.hz + 0.16 * a.h, a.w, a.hz + 0.165 * a.h), fill=(120, 116, 140))
    for i in range(4):
        x, y = a.w * (i + a.uniform(0.2, 0.8)) / 4, a.hz + a.uniform(0.22, 0.4) * a.h
        a.draw.ellipse((x - 110, y - 14, x + 110, y + 14), fill=(84, 78, 88))


def draw_beach(a: Canvas) -> None:
    """Draw sea, surf and sand."""
    a.draw_sky((70, 160, 240), (200, 236, 252), 2)
    shore = a.hz + int(0.17 * a.h)
    a.fill_gradient(a.hz, shore, a.jitter_color((26, 110, 190), 14), (72, 190, 214))
    a.fill_gradient(shore, a.h, a.jitter_color((244, 222, 166), 8), (228, 194, 130))
    phase = a.uniform(0, 6)
    for k, color in ((10, (222, 202, 152)), (-2, (250, 252, 252))):
        line = [(x, shore + k + 7 * math.sin(x / 70 + phase)) for x in range(0, a.w + 20, 20)]
        a.draw.line(line, fill=color, width=9)
    for _ in range(9):
        x, y = a.uniform(0, a.w), a.uniform(a.hz + 8, shore - 12)
        a.draw.line((x, y, x + a.uniform(20, 60), y), fill=(190, 226, 240), width=2)
    a.draw_dots(60, shore + 20, a.h, (216, 182, 122), 7)


def draw_park(a: Canvas) -> None:
    """Draw grass, a path and distant trees."""
    a.draw_sky()
    for i in range(9):
        a.draw_round_tree(
            a.w * (i + a.uniform(0, 1)) / 9, a.hz + 8, a.uniform(90, 170), a.jitter_color((74, 144, 66), 22)
        )
    a.fill_gradient(a.hz, a.h, a.jitter_color((126, 190, 86), 12), (84, 156, 58))
    bend, at = a.uniform(-0.5, 0.5) * a.w, a.uniform(0.2, 0.8) * a.w
    a.draw.polygon(
        [(at - 14, a.hz), (at + 14, a.hz), (at + bend + 190, a.h), (at + bend - 130, a.h)],
        fill=a.jitter_color((222, 202, 160), 8),
    )
    a.draw_dots(110, a.hz + 10, a.h, (70, 140, 50), 7)
    a.draw_dots(14, a.hz + 50, a.h, (240, 230, 120), 7)


def draw_lake(a: Canvas) -> None:
    """Draw hills, water and a green shore."""
    a.draw_sky((96, 160, 226), (222, 236, 244))
    a.draw_ridge(a.hz + 2, a.uniform(50, 130), a.jitter_color((128, 150, 176), 14))
    a.draw_ridge(a.hz + 2, a.uniform(24, 50), a.jitter_color((84, 128, 92), 12), 14)
    shore = a.hz + int(0.26 * a.h)
    a.fill_gradient(a.hz, shore, a.jitter_color((92, 158, 208), 12), (38, 104, 170))
    for _ in range(22):
        x, y = a.uniform(0, a.w), a.uniform(a.hz + 6, shore - 4)
        a.draw.line((x, y, x + a.uniform(20, 90), y), fill=(150, 200, 230), width=2)
    phase = a.uniform(0, 6)
    edge = [(x, shore + 6 * math.sin(x / 90 + phase)) for x in range(0, a.w + 20, 20)]
    a.draw.polygon([(0, a.h), *edge, (a.w, a.h)], fill=a.jitter_color((116, 166, 78), 12))
    a.draw.line(edge, fill=(206, 188, 140), width=12)
    a.draw_dots(80, shore + 14, a.h, (90, 140, 58), 8)


def draw_mountain(a: Canvas) -> None:
    """Draw peaks with snow over rough ground."""
    a.draw_sky((84, 150, 226), (214, 232, 246))
    peaks = max(2, int(a.uniform(2, 5)))
    for i in range(peaks):
        x, tall, wide = a.w * (i + a.uniform(0.2, 0.8)) / peaks, a.uniform(0.6, 0.95) * a.hz, a.uniform(0.3, 0.45) * a.w
        top = a.hz - tall
        a.draw.polygon([(x, top), (x - wide, a.hz + 4), (x + wide, a.hz + 4)], fill=a.jitter_color((112, 116, 136), 16))
        a.draw.polygon([(x, top), (x + wide, a.hz + 4), (x + wide * 0.2, a.hz + 4)], fill=(92, 96, 118))
        cap = [
            (x - wide * 0.3, top + tall * 0.3),
            (x - wide * 0.08, top + tall * 0.22),
            (x + wide * 0.1, top + tall * 0.32),
        ]
        a.draw.polygon([(x, top), *cap, (x + wide * 0.28, top + tall * 0.28)], fill=(248, 250, 254))
    a.fill_gradient(a.hz, a.h, a.jitter_color((140, 150, 112), 10), (120, 112, 86))
    a.draw_dots(90, a.hz + 6, a.h, (134, 128, 116), 12)
    a.draw_dots(40, a.hz + 6, a.h, (104, 130, 80), 8)


def draw_snow(a: Canvas) -> None:
    """Draw white ground, firs and falling snow."""
    a.draw_sky((150, 186, 222), (230, 238, 246), 2)
    a.draw_ridge(a.hz + 4, a.uniform(20, 80), a.jitter_color((206, 218, 234), 8))
    for i in range(16):
        a.draw_fir(a.w * (i + a.uniform(0, 1)) / 16, a.hz + 6, a.uniform(40, 90), a.jitter_color((70, 104, 96), 18))
    a.fill_gradient(a.hz, a.h, (242, 246, 252), a.jitter_color((216, 228, 244), 6))
    a.draw_dots(50, a.hz + 14, a.h, (226, 234, 246), 26)
    for x, y in a.rng.random((90, 2)).tolist():
        a.draw.ellipse((x * a.w, y * a.h, x * a.w + 6, y * a.h + 6), fill=(255, 255, 255))


def draw_forest(a: Canvas) -> None:
    """Draw trunks and leaves over dark ground."""
    a.fill_gradient(0, a.hz + 10, a.jitter_color((150, 190, 130), 14), (90, 140, 84))
    for depth, color in ((0.6, (66, 104, 62)), (0.85, (46, 82, 48))):
        for i in range(11):
            x, wide = a.w * (i + a.uniform(0, 1)) / 11, a.uniform(10, 22) * depth
            a.draw.rectangle((x - wide, 0, x + wide, a.hz + 20 * depth), fill=a.jitter_color((92, 70, 52), 14))
            a.draw.ellipse((x - 90, -60, x + 90, a.uniform(0.3, 0.7) * a.hz), fill=a.jitter_color(color, 12))
    a.fill_gradient(a.hz + 6, a.h, a.jitter_color((94, 112, 60), 8), (78, 84, 48))
    a.draw_dots(120, a.hz + 10, a.h, (120, 96, 56), 9)
    a.draw_dots(60, a.hz + 10, a.h, (70, 118, 56), 14)


def draw_desert(a: Canvas) -> None:
    """Draw sun, dunes and sand."""
    a.draw_sky((96, 170, 232), (250, 226, 180), 1)
    x, r = a.uniform(0.1, 0.9) * a.w, 30
    a.draw.ellipse((x - r, 50, x + r, 50 + 2 * r), fill=(255, 240, 170))
    a.draw_ridge(a.hz + 4, a.uniform(40, 90), a.jitter_color((206, 140, 90), 12), 6)
    a.fill_gradient(a.hz, a.h, a.jitter_color((236, 184, 110), 10), (212, 142, 78))
    for k in range(3):
        base, phase = a.hz + (k + 0.5) * (a.h - a.hz) / 3, a.uniform(0, 6)
        line = [(x, base + 16 * math.sin(x / a.uniform(110, 118) + phase)) for x in range(0, a.w + 30, 30)]
        a.draw.line(line, fill=(204, 138, 76), width=4)
    a.draw_dots(30, a.hz + 10, a.h, (190, 124, 70), 8)


def draw_farm(a: Canvas) -> None:
    """Draw fields, a fence and a red barn."""
    a.draw_sky()
    a.draw_ridge(a.hz + 4, a.uniform(20, 60), a.jitter_color((120, 168, 92), 10), 6)
    for k in range(6):
        top = a.hz + k * (a.h - a.hz) // 6
        a.fill_gradient(
            top,
            a.hz + (k + 1) * (a.h - a.hz) // 6 + 1,
            a.jitter_color(((214, 186, 96), (150, 182, 80))[k % 2], 8),
            (150, 168, 70),
        )
    x, tall = a.uniform(0.08, 0.72) * a.w, a.uniform(120, 160)
    base = a.hz + 20
    a.draw.rectangle((x, base - tall * 0.6, x + tall, base), fill=a.jitter_color((178, 52, 44), 10))
    a.draw.polygon(
        [(x - 8, base - tall * 0.58), (x + tall / 2, base - tall), (x + tall + 8, base - tall * 0.58)],
        fill=(110, 66, 58),
    )
    a.draw.rectangle(
        (x + tall * 0.32, base - tall * 0.38, x + tall * 0.68, base),
        fill=(240, 232, 220),
        outline=(120, 40, 36),
        width=5,
    )
    for i in range(12):
        at = a.w * i / 11
        a.draw.rectangle((at - 4, a.hz + 14, at + 4, a.hz + 56), fill=(240, 234, 222))
    for y in (22, 38):
        a.draw.rectangle((0, a.hz + y, a.w, a.hz + y + 6), fill=(240, 234, 222))
