"""Render a scene: pixels, boxes and labels.

Every thing is one or more layers with a mask; a map of the topmost layer of each pixel gives the visible boxes.
"""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from data.demo.drawing.interiors import render_background
from data.demo.drawing.people import BELOW, LEG, render_person
from data.demo.drawing.sprites import render_sprite
from data.demo.geometry import MOUNT, SEAT, Scene, Thing, place_box
from data.demo.scenes.kinds import CLASSES, KINDS
from data.demo.scenes.scene import PAINT, make_rng

MIN_VISIBLE_FRACTION = 0.35  # a thing has no box if a smaller fraction of it is visible
ALPHA_THRESHOLD = 96  # minimum alpha of a pixel that belongs to a thing
LIGHTS = {"plain": (1.0, 1.0, 1.0), "warm": (1.06, 0.98, 0.84), "cool": (0.88, 0.97, 1.07), "dim": (0.7, 0.72, 0.8)}
Layer = tuple[str, Image.Image, int, int]  # kind of thing (empty for shadows and the like), RGBA image, left, top


def render_scene(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render a scene.

    Boxes enclose the visible part of a thing: clipped by the image, without what nearer things hide. The last box is
    that of the place.

    Returns:
        Pixels before JPEG compression (h, w, 3) uint8, boxes (n, 4) float32 x1 y1 x2 y2 in pixels, and labels (n,)
        int64 into `CLASSES`.
    """
    rng = make_rng(scene.seed, scene.index, PAINT)
    picture = render_background(scene.place, scene.size, scene.horizon, rng)
    layers = [layer for thing in scene.things for layer in render_thing(thing, scene, rng)]
    top_layer = np.zeros((scene.size[1], scene.size[0]), np.uint8)
    areas = [_paste_layer(picture, top_layer, layer, number) for number, layer in enumerate(layers, 1)]
    boxes: list[tuple[float, ...]] = []
    labels: list[int] = []
    for number, (layer, area) in enumerate(zip(layers, areas, strict=True), 1):
        box = _find_visible_box(top_layer == number, area) if layer[0] else None
        if box:
            boxes.append(box)
            labels.append(CLASSES.index(layer[0]))
    w, h = scene.size
    boxes.append(tuple(round(f * s) for f, s in zip(place_box(scene.place, scene.horizon), (w, h, w, h), strict=True)))
    labels.append(CLASSES.index(scene.place))
    return _apply_light(picture, scene, rng), np.array(boxes, np.float32), np.array(labels, np.int64)


def _paste_layer(picture: Image.Image, top_layer: np.ndarray, layer: Layer, number: int) -> int:
    """Paste one layer, mark its pixels in the map, and return the area that it has if nothing hides it."""
    name, image, left, top = layer
    picture.paste(image, (left, top), image)
    solid = np.asarray(image.getchannel("A")) >= ALPHA_THRESHOLD
    if name:
        x, y = max(left, 0), max(top, 0)
        part = (
            top_layer[y : top + image.height, x : left + image.width]
            if top + image.height > 0 < left + image.width
            else top_layer[:0]
        )
        part[solid[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]]] = number
    return int(solid.sum())


def _find_visible_box(mask: np.ndarray, area: int) -> tuple[int, int, int, int] | None:
    count = int(mask.sum())
    if count < 12 or count < MIN_VISIBLE_FRACTION * area:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _apply_light(picture: Image.Image, scene: Scene, rng: Generator) -> np.ndarray:
    gain = LIGHTS[scene.light]
    table = [min(255, int(value * part)) for part in gain for value in range(256)]
    pixels = np.asarray(picture.point(table)).astype(np.int16)
    noise = rng.integers(-scene.noise, scene.noise + 1, (scene.size[1], scene.size[0], 1), dtype=np.int16)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def render_thing(thing: Thing, scene: Scene, rng: Generator) -> list[Layer]:
    """Render the layers of one thing, from back to front: shadow, dust, mount, body, what the hand holds.

    Args:
        thing: Thing with its position and height in pixels.
        scene: Scene of the thing.
        rng: Random generator; only persons use it.
    """
    kind = KINDS[thing.kind]
    layers = [] if kind.zone in ("water", "sky", "table") else [_render_shadow(thing)]
    if kind.family == "person":
        return layers + _render_person_layers(thing, rng)
    if thing.action in ("run", "drive"):
        layers.append(_render_dust(thing, away=1 if not thing.flip else -1))
    turn, lift, squash = 0.0, 0.0, 1.0
    if thing.action == "run" and thing.kind != "horse":
        turn, lift = (10.0 if not thing.flip else -10.0), 0.1
    if thing.action == "sleep":
        squash = 0.68
    if thing.action in ("float", "swim", "surf"):
        lift = -0.02
    image = render_sprite(thing.kind, thing.height, thing.flip, -turn, squash)
    layers.append(_make_layer(thing.kind, image, thing.x, thing.y - lift * thing.height))
    if thing.action == "sleep":
        layers.append(_render_snore(thing))
    return layers


def _render_person_layers(thing: Thing, rng: Generator) -> list[Layer]:
    layers: list[Layer] = []
    side = -1 if thing.flip else 1
    lift, action = 0.0, thing.action
    if action.startswith("ride:"):
        mount = action[5:]
        mount_height = MOUNT[mount] * thing.height
        level = 24 * side if mount == "skateboard" else 0
        image = render_sprite(mount, mount_height, flip=side > 0, degrees=-level)
        layers.append(_make_layer(mount, image, thing.x, thing.y))
        lift = SEAT[mount] * mount_height - (0.0 if mount == "skateboard" else LEG[thing.kind] * thing.height * 0.8)
        action = "surf" if mount == "skateboard" else "ride"
    if action == "run" or thing.action == "ride:skateboard":
        layers.append(_render_dust(thing, away=-side))
    if action == "play:soccer ball":
        action = "kick"
        ball = render_sprite("soccer ball", thing.height * 0.22)
        layers.append(_make_layer("soccer ball", ball, thing.x + side * thing.height * 0.46, thing.y))
    if thing.action == "play:baseball bat":
        ball = render_sprite("baseball", 17)
        layers.append(
            _make_layer("baseball", ball, thing.x + side * thing.height * 0.72, thing.y - thing.height * 0.72)
        )
    for name, image in render_person(thing.kind, action, thing.color, thing.height, thing.flip, rng):
        layers.append(_make_layer(name, image, thing.x, thing.y - lift + BELOW * thing.height))
    return layers


def _make_layer(name: str, image: Image.Image, x: float, y: float) -> Layer:
    return name, image, round(x - image.width / 2), round(y - image.height)


def _render_shadow(thing: Thing) -> Layer:
    width = max(6, round(thing.height * 0.55 if KINDS[thing.kind].family != "person" else thing.height * 0.4))
    image = Image.new("RGBA", (width, max(3, width // 6)))
    ImageDraw.Draw(image).ellipse((0, 0, image.width - 1, image.height - 1), fill=(0, 0, 0, 70))
    return _make_layer("", image, thing.x, thing.y + image.height * 0.5)


def _render_dust(thing: Thing, away: int) -> Layer:
    """Render dust and speed lines behind a moving thing; `away` is -1 on the left, 1 on the right."""
    height = thing.height
    image = Image.new("RGBA", (round(height * 0.5), round(height * 0.7)))
    pen = ImageDraw.Draw(image)
    w, h = image.size
    for x, y, r in ((0.2, 0.9, 0.09), (0.45, 0.88, 0.07), (0.68, 0.92, 0.05)):
        spot = x if away > 0 else 1 - x
        pen.ellipse((spot * w - r * h, y * h - r * h, spot * w + r * h, y * h + r * h), fill=(236, 230, 218, 190))
    for y, length in ((0.25, 0.55), (0.45, 0.75), (0.65, 0.5)):
        ends = (0.15 * w, (0.15 + length) * w) if away > 0 else ((0.85 - length) * w, 0.85 * w)
        pen.line((ends[0], y * h, ends[1], y * h), fill=(250, 250, 250, 170), width=2)
    return _make_layer("", image, thing.x + away * height * 0.62, thing.y + 2)


def _render_snore(thing: Thing) -> Layer:
    image = Image.new("RGBA", (34, 34))
    pen = ImageDraw.Draw(image)
    for x, y, s in ((2, 22, 8), (11, 11, 10), (21, 0, 12)):
        for color, width in (((40, 40, 60, 255), 4), ((255, 255, 255, 255), 2)):
            pen.line([(x, y), (x + s, y), (x, y + s - 2), (x + s, y + s - 2)], fill=color, width=width)
    side = -1 if not thing.flip else 1
    return _make_layer("", image, thing.x + side * thing.height * 0.3, thing.y - thing.height * 0.6)
