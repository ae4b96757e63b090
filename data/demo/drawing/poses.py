"""Poses of people, and how they hold things.

Lengths are fractions of the height of the person, but positions of arms are in arm lengths from the shoulder, and
positions of legs in leg lengths; x increases in the direction in which the person faces, y increases upwards.
"""

from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """Positions of the limbs."""

    legs: tuple[tuple[Point, Point], tuple[Point, Point]]
    """Knee and foot of the far and the near leg."""
    arms: tuple[tuple[Point, Point], tuple[Point, Point]]
    """Elbow and hand of the far and the near arm."""
    hip: float
    """Height of the hip above the ground, in leg lengths."""
    lean: float
    """How far the shoulders are in front of the hip."""
    lift: float
    """Height of the feet above the ground."""


# Columns: far knee and foot | near knee and foot | far elbow and hand | near elbow and hand | hip, lean, lift.
_POSES = """
stand  | -0.06 0.5  -0.07 0 | 0.06 0.5  0.07 0 | -0.17 -0.5  -0.19 -1 | 0.17 -0.5  0.19 -1 | 1 0 0
walk   | -0.04 0.5  -0.16 0.05 | 0.1 0.52  0.15 0 | -0.17 -0.5  -0.24 -0.9 | 0.15 -0.5  0.25 -0.8 | 1 0 0
run    | -0.1 0.45  -0.31 0.45 | 0.17 0.68  0.17 0.1 | -0.22 -0.45  -0.33 -0.1 | 0.17 -0.6  0.33 -0.3 | 1 0.07 0
jump   | -0.17 0.62  -0.15 0.12 | 0.17 0.62  0.15 0.12 | -0.24 0.25  -0.27 0.85 | 0.24 0.25  0.27 0.85 | 1 0 0.2
sit    | -0.2 0.5  0 0.1 | 0.2 0.5  0.02 0.08 | -0.2 -0.5  -0.15 -0.95 | 0.2 -0.5  0.15 -0.95 | 0.3 0 0
seat   | -0.09 0.62  -0.09 0 | 0.09 0.62  0.09 0 | -0.18 -0.5  -0.1 -0.95 | 0.18 -0.5  0.1 -0.95 | 0.78 0 0
dance  | -0.06 0.5  -0.1 0 | 0.16 0.62  0.27 0.22 | -0.22 0.2  -0.16 0.9 | 0.24 0.05  0.38 0.4 | 1 -0.03 0
hold   | -0.06 0.5  -0.07 0 | 0.06 0.5  0.07 0 | -0.17 -0.5  -0.19 -1 | 0.2 -0.45  0.27 -0.1 | 1 0 0
low    | -0.06 0.5  -0.07 0 | 0.06 0.5  0.07 0 | -0.17 -0.5  -0.19 -1 | 0.19 -0.5  0.23 -0.95 | 1 0 0
up     | -0.06 0.5  -0.07 0 | 0.06 0.5  0.07 0 | -0.17 -0.5  -0.19 -1 | 0.22 -0.15  0.25 0.3 | 1 0 0
front  | -0.06 0.5  -0.07 0 | 0.06 0.5  0.07 0 | -0.18 -0.5  -0.02 -0.55 | 0.18 -0.5  0.06 -0.55 | 1 0 0
chin   | -0.06 0.5  -0.07 0 | 0.06 0.5  0.07 0 | -0.22 -0.35  0 -0.12 | 0.25 -0.35  0.31 0.05 | 1 0 0
strum  | -0.06 0.5  -0.07 0 | 0.06 0.5  0.07 0 | -0.22 -0.5  -0.05 -0.72 | 0.22 -0.45  0.28 -0.3 | 1 0 0
swing  | -0.1 0.5  -0.15 0 | 0.1 0.52  0.14 0 | -0.06 -0.35  0.16 -0.2 | 0.22 -0.35  0.18 -0.12 | 1 0 0
catch  | -0.1 0.5  -0.13 0 | 0.1 0.5  0.13 0 | -0.21 -0.2  -0.28 0.25 | 0.21 -0.2  0.28 0.25 | 1 0 0
kick   | -0.04 0.5  -0.08 0 | 0.14 0.62  0.27 0.3 | -0.2 -0.4  -0.32 -0.3 | 0.18 -0.5  0.24 -0.8 | 1 -0.04 0
ride   | 0.1 0.75  0.05 0.3 | 0.13 0.7  0.09 0.22 | 0.08 -0.5  0.22 -0.7 | 0.12 -0.5  0.25 -0.7 | 1 0.03 0
surf   | -0.14 0.55  -0.15 0 | 0.14 0.55  0.15 0 | -0.2 -0.2  -0.34 0 | 0.2 -0.2  0.34 0.05 | 1 0 0
"""


def _parse_pose(row: str) -> Pose:
    limbs = [[float(part) for part in cell.split()] for cell in row.split("|")[1:]]
    far_leg, near_leg, far_arm, near_arm = (((a, b), (c, d)) for a, b, c, d in limbs[:4])
    return Pose((far_leg, near_leg), (far_arm, near_arm), *limbs[4])


POSES = {row.split("|")[0].strip(): _parse_pose(row) for row in _POSES.strip().splitlines()}


@dataclass(frozen=True)
class Grip:
    """How a thing is held."""

    pose: str
    """Name of the pose."""
    offset: Point
    """Center of the thing, from the center of the shoulders."""
    size: float
    """Height of the thing."""
    turn: float = 0.0
    """Rotation in degrees, counterclockwise."""


GRIPS = {
    "hold:violin": Grip("hold", (0.3, -0.02), 0.46, -12),
    "hold:guitar": Grip("hold", (0.31, -0.02), 0.54, -30),
    "hold:umbrella": Grip("up", (0.26, 0.36), 0.62),
    "hold:balloon": Grip("up", (0.27, 0.35), 0.46),
    "hold:ice cream": Grip("hold", (0.28, 0.04), 0.32),
    "hold:camera": Grip("front", (0.02, -0.18), 0.24),
    "hold:book": Grip("front", (0.02, -0.17), 0.26),
    "hold:suitcase": Grip("low", (0.26, -0.42), 0.4, 22),
    "hold:kite": Grip("up", (0.42, 0.52), 0.5),
    "hold:football": Grip("hold", (0.28, 0.03), 0.22),
    "hold:basketball": Grip("hold", (0.29, 0.05), 0.26),
    "hold:baseball bat": Grip("low", (0.29, -0.12), 0.52, -12),
    "hold:cake": Grip("front", (0.02, -0.1), 0.3),
    "hold:pizza": Grip("hold", (0.29, 0.03), 0.28),
    "hold:hamburger": Grip("hold", (0.29, 0.03), 0.24),
    "hold:apple": Grip("hold", (0.28, 0.02), 0.2),
    "hold:watermelon": Grip("front", (0.02, -0.14), 0.28),
    "hold:microphone": Grip("hold", (0.2, 0.03), 0.26, 70),
    "play:violin": Grip("chin", (0.21, 0.0), 0.44, -18),
    "play:guitar": Grip("strum", (0.08, -0.18), 0.56, -18),
    "play:trumpet": Grip("front", (0.2, 0.0), 0.34, -35),
    "play:saxophone": Grip("front", (0.06, -0.17), 0.46, 8),
    "play:baseball bat": Grip("swing", (0.28, 0.16), 0.5, -28),
    "play:basketball": Grip("hold", (0.3, -0.2), 0.26),
}
