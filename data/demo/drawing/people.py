"""Render people: the head of an emoji on a drawn body, with what the hands hold.

Lengths in this file are fractions of the height of the person; x increases in the direction in which the person faces,
y increases upwards from the feet.
"""

from collections.abc import Callable

from numpy.random import Generator
from PIL import Image, ImageDraw, ImageOps

from data.demo.drawing.poses import GRIPS, POSES, Grip, Point, Pose
from data.demo.drawing.sprites import render_sprite
from data.demo.scenes.kinds import COLORS

SUPERSAMPLE = 3  # bodies are drawn this many times larger, then reduced
WIDE, HIGH, BELOW = 2.2, 1.75, 0.15  # width and height of the canvas, and its part below the feet
SKIN, SHOE = (255, 202, 40), (62, 46, 40)
SHIRTS = {
    "red": (222, 42, 42),
    "blue": (40, 96, 220),
    "green": (38, 150, 62),
    "white": (248, 248, 246),
    "black": (36, 36, 42),
    "pink": (250, 120, 178),
    "purple": (134, 62, 176),
    "gray": (140, 146, 152),
}
TROUSERS = ((44, 62, 104), (92, 70, 52), (72, 76, 84), (120, 104, 72))
HAIR = {"old man": (190, 190, 190), "old woman": (176, 176, 180)}
HEAD = {"man": 0.31, "woman": 0.30, "boy": 0.37, "girl": 0.37, "old man": 0.31, "old woman": 0.31, "baby": 0.52}
LEG = {"man": 0.36, "woman": 0.36, "boy": 0.31, "girl": 0.31, "old man": 0.34, "old woman": 0.33, "baby": 0.2}


def render_person(
    kind: str, action: str, color: str, height: float, flip: bool, rng: Generator
) -> list[tuple[str, Image.Image]]:
    """Render a person and what the hands hold.

    The feet are at the center of the canvas, `BELOW * height` pixels above its lower edge.

    Args:
        kind: Kind of person.
        action: Action of the person.
        color: Color of the shirt; empty chooses one.
        height: Height of the person, pixels.
        flip: Whether the person faces left.
        rng: Random generator of clothes.

    Returns:
        Layers from back to front: kind of thing and RGBA image, all of the same size.
    """
    grip = GRIPS.get(action)
    pose = POSES[grip.pose if grip else action if action in POSES else "stand"]
    shirt = SHIRTS[color or COLORS[int(rng.random() * len(COLORS))]]
    trousers = TROUSERS[int(rng.random() * len(TROUSERS))]
    body = _render_body(kind, pose, shirt, trousers, height)
    neck = (1 - HEAD[kind]) - LEG[kind] * (1 - pose.hip) + pose.lift
    _paste(
        body,
        _render_head(kind, action == "look", height * HEAD[kind] * 1.06),
        (pose.lean * 1.6, neck + HEAD[kind] * 0.47),
        height,
    )
    layers = [(kind, body)]
    if grip:
        layers.append((action.partition(":")[2], _render_held_thing(body.size, action, grip, neck, height)))
    return [(name, ImageOps.mirror(layer)) for name, layer in layers] if flip else layers


def _render_held_thing(size: tuple[int, int], action: str, grip: Grip, neck: float, height: float) -> Image.Image:
    layer = Image.new("RGBA", size)
    center = (grip.offset[0], neck - 0.03 + grip.offset[1])
    if action == "hold:kite":
        _draw_line(layer, height, (0.25, neck + 0.05), center)
    _paste(layer, render_sprite(action.partition(":")[2], grip.size * height, degrees=grip.turn), center, height)
    if action == "play:violin":
        _draw_line(layer, height, (-0.02, neck - 0.1), (0.34, neck + 0.06), 3)
    return layer


def _to_pixels(point: Point, height: float, scale: float = 1.0) -> Point:
    return (WIDE / 2 + point[0]) * height * scale, (HIGH - BELOW - point[1]) * height * scale


def _paste(canvas: Image.Image, picture: Image.Image, center: Point, height: float) -> None:
    x, y = _to_pixels(center, height)
    left, top = round(x - picture.width / 2), round(y - picture.height / 2)
    canvas.alpha_composite(picture, (max(left, 0), max(top, 0)), (max(-left, 0), max(-top, 0)))


def _draw_line(canvas: Image.Image, height: float, start: Point, end: Point, width: int = 1) -> None:
    ImageDraw.Draw(canvas).line(
        [_to_pixels(start, height), _to_pixels(end, height)], fill=(90, 60, 40, 255), width=width
    )


def _render_body(
    kind: str, pose: Pose, shirt: tuple[int, ...], trousers: tuple[int, ...], height: float
) -> Image.Image:
    leg, head = LEG[kind], HEAD[kind]
    hip = leg * pose.hip + pose.lift
    neck = hip + 1 - head - leg
    arm = (neck - hip) * 1.08
    wide = 0.115 if kind in ("woman", "girl", "old woman") else 0.13
    skirt = kind in ("woman", "girl", "old woman")
    canvas = Image.new("RGBA", (round(WIDE * height) * SUPERSAMPLE, round(HIGH * height) * SUPERSAMPLE))
    draw = ImageDraw.Draw(canvas)

    def draw_limb(points: list[Point], color: tuple[int, ...], width: float) -> None:
        spots = [_to_pixels(point, height, SUPERSAMPLE) for point in points]
        thick = max(1, round(width * height * SUPERSAMPLE))
        draw.line(spots, fill=color, width=thick, joint="curve")
        for x, y in spots:
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=color)

    for side, (knee, foot) in zip((-1, 1), pose.legs, strict=True):
        ankle = (foot[0], foot[1] * leg + pose.lift + 0.025)
        joints = [(side * 0.055, hip), (knee[0], knee[1] * leg + pose.lift), ankle]
        draw_limb(joints, SKIN if skirt and kind != "old woman" else trousers, 0.075 if skirt else 0.095)
        draw_limb([ankle, (ankle[0] + 0.045, ankle[1] - 0.005)], SHOE, 0.06)
    far, near = (
        [
            (side * wide * 0.9 + pose.lean, neck - 0.045),
            (e[0] + pose.lean, neck - 0.03 + e[1] * arm),
            (h[0] + pose.lean, neck - 0.03 + h[1] * arm),
        ]
        for side, (e, h) in zip((-1, 1), pose.arms, strict=True)
    )
    crossing = pose in (POSES["front"], POSES["chin"], POSES["strum"], POSES["swing"])
    if not crossing:
        _draw_arm(draw_limb, far, shirt)
    torso = [(-wide + pose.lean, neck), (wide + pose.lean, neck), (0.1, hip - 0.02), (-0.1, hip - 0.02)]
    draw.polygon([_to_pixels(p, height, SUPERSAMPLE) for p in torso], fill=shirt)
    draw_limb([(-wide + 0.04 + pose.lean, neck - 0.03), (wide - 0.04 + pose.lean, neck - 0.03)], shirt, 0.08)
    if skirt:
        hem = hip - leg * (0.85 if kind == "old woman" else 0.52) * min(pose.hip, 1.0)
        cloth = [(-0.1, hip + 0.05), (0.1, hip + 0.05), (0.17, hem), (-0.17, hem)]
        draw.polygon([_to_pixels(p, height, SUPERSAMPLE) for p in cloth], fill=trousers)
    if crossing:
        _draw_arm(draw_limb, far, shirt)
    _draw_arm(draw_limb, near, shirt)
    return canvas.reduce(SUPERSAMPLE)


def _draw_arm(draw_limb: Callable[..., None], joints: list[Point], shirt: tuple[int, ...]) -> None:
    draw_limb(joints[1:], SKIN, 0.06)
    draw_limb(joints[:2], tuple(int(c * 0.9) for c in shirt), 0.075)


def _render_head(kind: str, behind: bool, size: float) -> Image.Image:
    """Render the head, `size` pixels high; `behind` shows it from the back, with hair only."""
    if not behind:
        return render_sprite(kind, size)
    side = round(size) * SUPERSAMPLE
    canvas = Image.new("RGBA", (round(side * 1.2), side))
    draw = ImageDraw.Draw(canvas)
    hair, center, r = HAIR.get(kind, (84, 58, 50)), side * 0.6, side * 0.44
    draw.rectangle((center - r * 0.3, side * 0.7, center + r * 0.3, side), fill=SKIN)
    for x in (center - r, center + r):
        draw.ellipse((x - r * 0.2, side * 0.42, x + r * 0.2, side * 0.68), fill=SKIN)
    draw.ellipse((center - r, side * 0.02, center + r, side * 0.9), fill=hair)
    if kind == "woman":
        draw.rounded_rectangle((center - r, side * 0.4, center + r, side * 0.99), radius=side * 0.1, fill=hair)
    if kind == "girl":
        for x in (center - r * 1.05, center + r * 1.05):
            draw.ellipse((x - r * 0.3, side * 0.55, x + r * 0.3, side * 0.98), fill=hair)
    if kind == "old woman":
        draw.ellipse((center - r * 0.35, 0, center + r * 0.35, side * 0.26), fill=(150, 150, 156))
    if kind == "old man":
        draw.ellipse((center - r * 0.62, side * 0.02, center + r * 0.62, side * 0.55), fill=SKIN)
    return canvas.reduce(SUPERSAMPLE)
