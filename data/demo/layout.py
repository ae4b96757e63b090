"""Where the things of a plan stand: perspective, sides, few overlaps, and the relations made visible."""

from dataclasses import dataclass, replace

from numpy.random import Generator

from data.demo.geometry import Scene, Thing, approximate_box, covered_fraction, intersection_over_min_area, zone_rows
from data.demo.scenes.families import plan_scene
from data.demo.scenes.kinds import KINDS
from data.demo.scenes.scene import LAYOUT, Group, SceneSpec, choice, make_rng, weighted_choice


@dataclass(frozen=True)
class _Frame:
    """What the things of one attempt share. `rows`: where feet may be, by zone, fractions of the height."""

    size: tuple[int, int]  # width, height, pixels
    rows: dict[str, tuple[float, float]]
    shrink: float  # all heights are multiplied by this


def compose_scene(seed: int, index: int) -> Scene:
    """The scene of this number: what is in it, and where. Any order of calls gives the same scenes."""
    what, rng = plan_scene(seed, index), make_rng(seed, index, LAYOUT)
    size = (300, 400) if rng.random() < 0.15 else (400, 300)
    horizon = 0.4 + 0.1 * rng.random()
    things: list[Thing] = []
    for shrink in (1.0, 0.9, 0.8, 0.7, 0.6):
        things, worst = _arrange(rng, what, _Frame(size, zone_rows(what.place, horizon), shrink))
        if worst < 0.3:
            break
    lights = {"plain": 5, "warm": 1, "cool": 1} | ({} if what.place == "city" else {"dim": 1})
    light, noise, quality = weighted_choice(rng, lights), int(rng.integers(1, 9)), int(rng.integers(60, 93))
    ordered = tuple(sorted(things, key=lambda t: t.y))
    return Scene(
        seed, index, what.place, size, horizon, what.groups, ordered, light, noise, quality, what.family, what.factor
    )  # fmt: skip


def _arrange(rng: Generator, what: SceneSpec, frame: _Frame) -> tuple[list[Thing], float]:
    """Place group by group, each at the best of some attempts; also how bad the worst of them is."""
    sides = [choice(rng, ((0.05, 0.5), (0.5, 0.95), (0.2, 0.8))) for _ in what.groups]
    if len(sides) > 1 and rng.random() < 0.75:
        sides[:2] = [((0.03, 0.5), (0.5, 0.97)), ((0.5, 0.97), (0.03, 0.5))][int(rng.random() * 2)]
    done: dict[int, list[Thing]] = {}
    worst = 0.0
    large = [g.target for g in what.groups if g.relation in ("under", "on")]
    for number in sorted(range(len(what.groups)), key=lambda i: (what.groups[i].relation != "", i)):
        group, best = what.groups[number], (9.0, [])
        others = [t for members in done.values() for t in members]
        for attempt in range(24):
            side = sides[number] if attempt < 14 else (0.03, 0.97)
            things = _members(rng, group, number, frame, side)
            if number in large:
                things = [replace(t, height=t.height * 1.35) for t in things]
            if group.relation:
                things = _relate(rng, things, group.relation, done[group.target][0], frame.size)
            cost = _cost(things, others, frame.size, group, done)
            if cost < best[0]:
                best = (cost, things)
            if cost < 0.08:
                break
        done[number] = best[1]
        worst = max(worst, best[0])
    return [thing for number in sorted(done) for thing in done[number]], worst


def _cost(
    things: list[Thing], others: list[Thing], size: tuple[int, int], group: Group, done: dict[int, list[Thing]]
) -> float:
    free = done[group.target] if group.relation in ("in front of", "on", "under") else []
    boxes = [approximate_box(t) for t in things]
    worst = max(
        (intersection_over_min_area(box, approximate_box(o)) for box in boxes for o in others if o not in free),
        default=0.0,
    )
    worst = max([worst, *(intersection_over_min_area(a, b) - 0.12 for i, a in enumerate(boxes) for b in boxes[:i])])
    hidden = sum(covered_fraction(box, approximate_box(o)) for box in boxes for o in free)
    worst = max(worst, hidden - 0.45)
    outside = max(max(-b[0], b[2] - size[0], -b[1], 0.0) / (b[2] - b[0]) for b in boxes)
    return worst + 2.0 * max(outside - 0.02, 0.0)


def _members(rng: Generator, group: Group, number: int, frame: _Frame, side: tuple[float, float]) -> list[Thing]:
    """A group side by side; `side`: between which fractions of the width its middle is."""
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
        _member(rng, first, group, k, center + (k - (group.number - 1) / 2) * step, (far * size[1], near * size[1]))
        for k in range(group.number)
    ]


def _member(rng: Generator, first: Thing, group: Group, k: int, x: float, rows: tuple[float, float]) -> Thing:
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


def _relate(rng: Generator, things: list[Thing], relation: str, other: Thing, size: tuple[int, int]) -> list[Thing]:
    """Move the things to where their relation to the other one can be seen."""
    box, first = approximate_box(other), approximate_box(things[0])
    wide, last = first[2] - first[0], approximate_box(things[-1])
    span = last[2] - first[0]
    grow = 1.0
    if relation in ("next to", "chasing"):
        gap = (0.03 if relation == "next to" else 0.22) * wide + 4
        right = rng.random() < 0.5 if relation == "next to" else not _faces_right(other)
        if relation == "chasing":
            right = not _faces_right(other)
            things = [replace(t, flip=_turned(t, _faces_right(other))) for t in things]
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
        start, y = other.x - span / 2 + (rng.random() - 0.5) * 10 + 0.3 * wide, other.y + 4
    shift = start - first[0]
    moved = [replace(t, x=t.x + shift, y=y + (t.y - things[0].y) * 0.3, height=t.height * grow) for t in things]
    if relation == "on":
        moved = [
            replace(t, action="seat", x=other.x + (k - (len(moved) - 1) / 2) * wide * grow, y=y)
            for k, t in enumerate(moved)
        ]
    return moved


def _faces_right(thing: Thing) -> bool:
    return thing.flip != (KINDS[thing.kind].family in ("person", "rider"))


def _turned(thing: Thing, right: bool) -> bool:
    """The `flip` with which the thing faces that way."""
    return right != (KINDS[thing.kind].family in ("person", "rider"))
