"""What a scene is once it is laid out, and the boxes that lay it out."""

from dataclasses import dataclass

from data.demo.drawing.people import GRIPS
from data.demo.drawing.sprites import aspect_ratio
from data.demo.scenes.kinds import KINDS
from data.demo.scenes.scene import Group

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels


@dataclass(frozen=True)
class Thing:
    """One thing: the point where it touches the ground (pixels), its height (pixels), and what it does.

    A person who rides or holds something is one thing; `action` names the other ("ride:horse").
    """

    kind: str
    x: float
    y: float
    height: float
    flip: bool  # faces left as a person, right as an animal: emoji animals look to the left
    action: str
    color: str
    group: int


@dataclass(frozen=True)
class Scene:
    """All that a picture and its captions need; pixels follow from it alone."""

    seed: int
    index: int
    place: str
    size: tuple[int, int]  # width, height, pixels
    horizon: float  # fraction of the height
    groups: tuple[Group, ...]
    things: tuple[Thing, ...]  # far ones first
    light: str  # plain | warm | cool | dim
    noise: int  # largest error of a pixel
    quality: int  # of the JPEG
    family: int  # scenes of one family differ in one factor; -1: stands alone
    factor: str


# Height of a seat in heights of what is ridden; height of that in heights of the rider.
SEAT = {"bicycle": 0.72, "motorcycle": 0.62, "skateboard": 0.42, "horse": 0.68, "camel": 0.66, "elephant": 0.86}
MOUNT = {"bicycle": 0.62, "motorcycle": 0.62, "skateboard": 0.34, "horse": 0.84, "camel": 0.92, "elephant": 1.05}
OVERHEAD = ("hold:umbrella", "hold:balloon", "hold:kite")
WIDTH = {"run": 0.62, "jump": 0.56, "dance": 0.6, "walk": 0.46, "play:soccer ball": 0.62}
# How far below the horizon (fraction of the height) things begin to stand, where it is not the usual 0.13.
_NEARER = {
    "street": 0.24,
    "beach": 0.25,
    "lake": 0.31,
    "kitchen": 0.36,
    "living room": 0.24,
    "stage": 0.2,
    "city": 0.18,
}


def zone_rows(place: str, horizon: float) -> dict[str, tuple[float, float]]:
    """Rows (fractions of the height) where feet may be, from far to near, by zone."""
    ground = _NEARER.get(place, 0.13)
    return {
        "ground": (horizon + ground, 0.955),
        "water": (horizon + (0.1 if place == "lake" else 0.08), horizon + (0.23 if place == "lake" else 0.15)),
        "sky": (0.2, horizon - 0.06),
        "table": (0.635, 0.65),
    }


def place_box(place: str, horizon: float) -> Box:
    """The area that makes the place, as fractions of width and height."""
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
    """About where the thing will be seen, pixels."""
    wide, tall = thing.height * 0.42, thing.height
    kind = KINDS[thing.kind]
    if kind.family != "person":
        wide = thing.height * aspect_ratio(thing.kind)
    elif thing.action.startswith("ride:"):
        mount = thing.action[5:]
        wide = max(wide, MOUNT[mount] * thing.height * aspect_ratio(mount))
        tall = thing.height * (MOUNT[mount] * SEAT[mount] + (1.0 if mount == "skateboard" else 0.72))
    else:
        wide = thing.height * (0.66 if thing.action in GRIPS else WIDTH.get(thing.action, 0.42))
        tall *= 1.15 if thing.action == "jump" else 1.3 if thing.action in OVERHEAD else 1.0
    return (thing.x - wide / 2, thing.y - tall, thing.x + wide / 2, thing.y)


def intersection_area(a: Box, b: Box) -> float:
    """Area that two boxes have in common."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(tall, 0.0)


def intersection_over_min_area(a: Box, b: Box) -> float:
    """Shared area over the area of the smaller box."""
    return intersection_area(a, b) / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def covered_fraction(front: Box, back: Box) -> float:
    """Part of the back box that the front one covers."""
    return intersection_area(front, back) / ((back[2] - back[0]) * (back[3] - back[1]))
