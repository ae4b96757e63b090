"""Arrange the things of a scene: perspective, left and right sides, few overlaps, visible relations."""

from dataclasses import dataclass, replace

from numpy.random import Generator

from data.demo.geometry import Scene, Thing, approximate_box, covered_fraction, intersection_over_min_area, zone_rows
from data.demo.scenes.families import plan_scene
from data.demo.scenes.kinds import KINDS
from data.demo.scenes.scene import LAYOUT, Group, SceneSpec, choice, make_rng, weighted_choice


@dataclass(frozen=True)
class _Frame:
    """Size, rows and scale of all things of one attempt."""

    size: tuple[int, int]  # width, height, pixels
    rows: dict[str, tuple[float, float]]  # zone -> farthest and nearest row, as fractions of the height
    shrink: float  # factor of all heights


def compose_scene(seed: int, index: int) -> Scene:
    """Compose scene number `index`; it depends on `seed` and `index` only."""
    spec, rng = plan_scene(seed, index), make_rng(seed, index, LAYOUT)
    size = (300, 400) if rng.random() < 0.15 else (400, 300)
    horizon = 0.4 + 0.1 * rng.random()
    things: list[Thing] = []
    for shrink in (1.0, 0.9, 0.8, 0.7, 0.6):
        things, worst_cost = _arrange(rng, spec, _Frame(size, zone_rows(spec.place, horizon), shrink))
        if worst_cost < 0.3:
            break
    lights = {"plain": 5, "warm": 1, "cool": 1} | ({} if spec.place == "city" else {"dim": 1})
    light, noise, quality = weighted_choice(rng, lights), int(rng.integers(1, 9)), int(rng.integers(60, 93))
    ordered = tuple(sorted(things, key=lambda t: t.y))
    return Scene(
        seed, index, spec.place, size, horizon, spec.groups, ordered, light, noise, quality, spec.family, spec.factor
    )  # fmt: skip


def _arrange(rng: Generator, spec: SceneSpec, frame: _Frame) -> tuple[list[Thing], float]:
    """Arrange group by group, each by the best of 24 attempts; return the things and the worst cost."""
    sides = [choice(rng, ((0.05, 0.5), (0.5, 0.95), (0.2, 0.8))) for _ in spec.groups]
    if len(sides) > 1 and rng.random() < 0.75:
        sides[:2] = [((0.03, 0.5), (0.5, 0.97)), ((0.5, 0.97), (0.03, 0.5))][int(rng.random() * 2)]
    things_by_group: dict[int, list[Thing]] = {}
    worst_cost = 0.0
    large = [g.target for g in spec.groups if g.relation in ("under", "on")]
    for number in sorted(range(len(spec.groups)), key=lambda i: (spec.groups[i].relation != "", i)):
        group = spec.groups[number]
        best: tuple[float, list[Thing]] = (9.0, [])
        others = [t for members in things_by_group.values() for t in members]
        for attempt in range(24):
            side = sides[number] if attempt < 14 else (0.03, 0.97)
            things = _arrange_group(rng, group, number, frame, side)
            if number in large:
                things = [replace(t, height=t.height * 1.35) for t in things]
            if group.relation:
                things = _show_relation(rng, things, group.relation, things_by_group[group.target][0], frame.size)
            cost = _compute_cost(things, others, frame.size, group, things_by_group)
            if cost < best[0]:
                best = (cost, things)
            if cost < 0.08:
                break
        things_by_group[number] = best[1]
        worst_cost = max(worst_cost, best[0])
    return [thing for number in sorted(things_by_group) for thing in things_by_group[number]], worst_cost


def _compute_cost(
    things: list[Thing],
    others: list[Thing],
    size: tuple[int, int],
    group: Group,
    things_by_group: dict[int, list[Thing]],
) -> float:
    """Compute how bad the positions of a group are: overlaps, hidden targets, and parts outside the image."""
    may_overlap = things_by_group[group.target] if group.relation in ("in front of", "on", "under") else []
    boxes = [approximate_box(t) for t in things]
    worst = max(
        (intersection_over_min_area(box, approximate_box(o)) for box in boxes for o in others if o not in may_overlap),
        default=0.0,
    )
    worst = max([worst, *(intersection_over_min_area(a, b) - 0.12 for i, a in enumerate(boxes) for b in boxes[:i])])
    hidden = sum(covered_fraction(box, approximate_box(o)) for box in boxes for o in may_overlap)
    worst = max(worst, hidden - 0.45)
    outside = max(max(-b[0], b[2] - size[0], -b[1], 0.0) / (b[2] - b[0]) for b in boxes)
    return worst + 2.0 * max(outside - 0.02, 0.0)


def _arrange_group(rng: Generator, group: Group, number: int, frame: _Frame, side: tuple[float, float]) -> list[Thing]:
    """Arrange a group side by side; `side` limits its center, as fractions of the width."""
    kind, size = KINDS[group.kind], frame.size
    far, near = frame.rows["ground" if kind.zone == "hand" else kind.zone]
    depth = rng.random() if kind.family != "plant" else 0.6 * rng.random()
    y = (far + (near - far) * depth) * size[1]
    scale = 0.82 + 0.38 * depth if kind.zone == "ground" else 0.95 + 0.3 * rng.random()
    height = kind.height * scale * frame.shrink * (0.92 + 0.16 * rng.random())
    flip = rng.random() < 0.5
    first = Thing(group.kind, 0.0, y, height, flip, group.action, group.color, number)
    box = approximate_box(first)
    step = (box[2] - box[0]) * (1.04 + 0.3 * rng.random())
    center = (side[0] + (side[1] - side[0]) * rng.random()) * size[0]
    half = step * (group.number - 1) / 2 + (box[2] - box[0]) / 2
    if 2 * half < size[0] - 8:
        center = min(max(center, half + 4), size[0] - half - 4)
    return [
        _make_member(
            rng, first, group, k, center + (k - (group.number - 1) / 2) * step, (far * size[1], near * size[1])
        )
        for k in range(group.number)
    ]


def _make_member(rng: Generator, first: Thing, group: Group, k: int, x: float, rows: tuple[float, float]) -> Thing:
    action, flip = first.action, first.flip
    if action == "play:baseball bat" and k % 2:
        action, flip = choice(rng, ("catch", "run")), not flip
    elif action == "play:soccer ball" and k:
        action, flip = "run", not flip
    elif action == "play:basketball" and k:
        action, flip = "catch", not flip
    elif action in ("stand", "rest", "sit", "dance", "jump", "swim", "park") and rng.random() < 0.4:
        flip = not flip
    y = min(max(first.y + (rng.random() - 0.5) * 16, rows[0]), rows[1])
    return replace(
        first,
        x=x + (rng.random() - 0.5) * 4,
        y=y,
        flip=flip,
        action=action,
        height=first.height * (0.95 + 0.1 * rng.random()),
    )


def _show_relation(
    rng: Generator, things: list[Thing], relation: str, other: Thing, size: tuple[int, int]
) -> list[Thing]:
    """Move things so that their relation to another one is visible."""
    box, first = approximate_box(other), approximate_box(things[0])
    width, last = first[2] - first[0], approximate_box(things[-1])
    span = last[2] - first[0]
    grow = 1.0
    if relation in ("next to", "chasing"):
        gap = (0.03 if relation == "next to" else 0.22) * width + 4
        right = rng.random() < 0.5 if relation == "next to" else not _faces_right(other)
        if relation == "chasing":
            right = not _faces_right(other)
            things = [replace(t, flip=_get_flip(t, _faces_right(other))) for t in things]
            start = box[0] - gap - span if not right else box[2] + gap
        else:
            start = box[2] + gap if right else box[0] - gap - span
        y = other.y + 2
    elif relation == "in front of":
        start, y = other.x - span / 2 + (rng.random() - 0.5) * 0.5 * (box[2] - box[0]), min(other.y + 14, size[1] - 4)
    elif relation == "on":
        start, y = other.x - span / 2, other.y + 2
        grow = 0.72 * KINDS[things[0].kind].height * other.height / KINDS[other.kind].height / things[0].height
    else:
        start, y = other.x - span / 2 + (rng.random() - 0.5) * 10 + 0.3 * width, other.y + 4
    shift = start - first[0]
    moved = [replace(t, x=t.x + shift, y=y + (t.y - things[0].y) * 0.3, height=t.height * grow) for t in things]
    if relation == "on":
        moved = [
            replace(t, action="seat", x=other.x + (k - (len(moved) - 1) / 2) * width * grow, y=y)
            for k, t in enumerate(moved)
        ]
    return moved


def _faces_right(thing: Thing) -> bool:
    return thing.flip != (KINDS[thing.kind].family in ("person", "rider"))


def _get_flip(thing: Thing, faces_right: bool) -> bool:
    """Return the `flip` with which a thing faces in a direction."""
    return faces_right != (KINDS[thing.kind].family in ("person", "rider"))
