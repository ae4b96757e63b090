"""Scene with positions, and the approximate boxes by which the layout places its things."""

from dataclasses import dataclass

from data.demo.drawing.poses import GRIPS
from data.demo.drawing.sprites import aspect_ratio
from data.demo.scenes.kinds import KINDS
from data.demo.scenes.scene import Group

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    A person with what they ride or hold is one thing, with the action "ride:horse".

    Attributes:
        x: Column where it touches the ground, pixels.
        y: Row where it touches the ground, pixels.
        height: Height in pixels.
        flip: Whether it is mirrored: people then face left, and animals, whose emoji face left, face right.
        group: Number of its group.
    """

    kind: str
    x: float
    y: float
    height: float
    flip: bool
    action: str
    color: str
    group: int


@dataclass(frozen=True)
class Scene:
    """A scene with positions; it determines the pixels and the captions.

    Attributes:
        size: Width and height, pixels.
        horizon: Row of the horizon, as a fraction of the height.
        things: All things, the farthest first.
        light: plain, warm, cool or dim.
        noise: Maximum noise of a pixel value.
        quality: JPEG quality.
        family: Number of its family; -1 for an independent scene.
        factor: Factor in which it differs from the first scene of its family; empty if there is none.
    """

    seed: int
    index: int
    place: str
    size: tuple[int, int]
    horizon: float
    groups: tuple[Group, ...]
    things: tuple[Thing, ...]
    light: str
    noise: int
    quality: int
    family: int
    factor: str


# Height of the seat as a fraction of the mount's height, and height of the mount as a multiple of the rider's.
SEAT = {"bicycle": 0.72, "motorcycle": 0.62, "skateboard": 0.42, "horse": 0.68, "camel": 0.66, "elephant": 0.86}
MOUNT = {"bicycle": 0.62, "motorcycle": 0.62, "skateboard": 0.34, "horse": 0.84, "camel": 0.92, "elephant": 1.05}
OVERHEAD = ("hold:umbrella", "hold:balloon", "hold:kite")
WIDTH = {"run": 0.62, "jump": 0.56, "dance": 0.6, "walk": 0.46, "play:soccer ball": 0.62}
# Distance from the horizon to the farthest things, as a fraction of the height, where it is not 0.13.
_GROUND_OFFSETS = {
    "street": 0.24,
    "beach": 0.25,
    "lake": 0.31,
    "kitchen": 0.36,
    "living room": 0.24,
    "stage": 0.2,
    "city": 0.18,
}


def zone_rows(place: str, horizon: float) -> dict[str, tuple[float, float]]:
    """Return zone -> the farthest and nearest rows where things can be, as fractions of the height."""
    ground = _GROUND_OFFSETS.get(place, 0.13)
    return {
        "ground": (horizon + ground, 0.955),
        "water": (horizon + (0.1 if place == "lake" else 0.08), horizon + (0.23 if place == "lake" else 0.15)),
        "sky": (0.2, horizon - 0.06),
        "table": (0.635, 0.65),
    }


def place_box(place: str, horizon: float) -> Box:
    """Return the box of the place itself, as fractions of width and height."""
    if place == "street":
        return (0.0, horizon + 0.12, 1.0, 0.95)
    if place == "lake":
        return (0.0, horizon, 1.0, horizon + 0.26)
    if place == "mountain":
        return (0.0, 0.05, 1.0, horizon)
    if place == "beach":
        return (0.0, horizon + 0.17, 1.0, 1.0)
    if place in ("park", "snow", "baseball field", "soccer field", "desert", "farm"):
        return (0.0, horizon, 1.0, 1.0)
    return (0.0, 0.0, 1.0, 1.0)


def approximate_box(thing: Thing) -> Box:
    """Estimate the box of a thing, pixels."""
    width, height = thing.height * 0.42, thing.height
    kind = KINDS[thing.kind]
    if kind.family != "person":
        width = thing.height * aspect_ratio(thing.kind)
    elif thing.action.startswith("ride:"):
        mount = thing.action[5:]
        width = max(width, MOUNT[mount] * thing.height * aspect_ratio(mount))
        height = thing.height * (MOUNT[mount] * SEAT[mount] + (1.0 if mount == "skateboard" else 0.72))
    else:
        width = thing.height * (0.66 if thing.action in GRIPS else WIDTH.get(thing.action, 0.42))
        height *= 1.15 if thing.action == "jump" else 1.3 if thing.action in OVERHEAD else 1.0
    return (thing.x - width / 2, thing.y - height, thing.x + width / 2, thing.y)


def intersection_area(a: Box, b: Box) -> float:
    """Compute the area of the intersection of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def intersection_over_min_area(a: Box, b: Box) -> float:
    """Compute the area of the intersection divided by the area of the smaller box."""
    return intersection_area(a, b) / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def covered_fraction(front: Box, back: Box) -> float:
    """Compute the fraction of the back box that the front box covers."""
    return intersection_area(front, back) / ((back[2] - back[0]) * (back[3] - back[1]))
