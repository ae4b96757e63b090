"""Which scene has which number: families that differ in one factor, and scenes that stand alone.

Scenes come in blocks of ten. The first four of a block are a family: a scene and three that differ from it in
exactly one factor each (number, kind, place, deed or colour); where a scene cannot be varied so, a scene of its own
stands in. The other six stand alone. Every second family
starts from one of four themes, so that some sentences have many true scenes and many near misses.
"""

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from data.demo.kinds import COLOURS, PLACES, allowed
from data.demo.scenes import OTHER, PLAN, Group, Plan, deeds, fresh, group_of, pick, stream, taken

BLOCK, FAMILY = 10, 4
FACTORS = ("number", "kind", "place", "deed", "colour")


def plan(seed: int, index: int) -> Plan:
    """The plan of one scene: the same whatever was planned before."""
    block, member = divmod(index, BLOCK)
    if member >= FAMILY:
        return fresh(stream(seed, index, PLAN))
    rng = stream(seed, block * BLOCK, PLAN)
    base = _theme(rng, block // 2 % 4) if block % 2 == 0 else fresh(rng)
    family = [replace(base, family=block)]
    order = [FACTORS[i] for i in np.argsort([rng.random() for _ in FACTORS])]
    for factor in order * 2:
        changed = _vary(rng, base, factor)
        known = [(member.place, member.groups) for member in family]
        if changed and len(family) < FAMILY and (changed.place, changed.groups) not in known:
            family.append(replace(changed, family=block, factor=factor))
    while len(family) < FAMILY:
        family.append(fresh(rng))
    return family[member]


def possible(plan: Plan) -> bool:
    """Whether every group may do what it does where it is."""
    return all(allowed(group.kind, group.deed, plan.place) for group in plan.groups)


def _theme(rng: Generator, theme: int) -> Plan:
    place, group = (
        ("street", Group("dog", 2, "run")),
        (pick(rng, ("stage", "street", "park", "living room")), Group("woman", 1, "hold:violin", pick(rng, COLOURS))),
        (
            pick(rng, ("baseball field", "baseball field", "park")),
            Group("boy", pick(rng, (2, 3)), "play:baseball bat", pick(rng, COLOURS)),
        ),
        ("lake", Group("man", 1, "look", pick(rng, COLOURS))),
    )[theme]
    groups = [group]
    for chance in (0.8, 0.3):
        if rng.random() < chance:
            groups.append(group_of(rng, place, OTHER, taken(groups)))
    return Plan(place, tuple(groups))


TWINS = (
    ("dog", "cat", "rabbit", "pig", "squirrel"), ("man", "woman", "old man"), ("boy", "girl"), ("old man", "old woman"),
    ("horse", "cow", "deer", "goat", "sheep"), ("elephant", "camel", "giraffe"), ("car", "taxi", "police car"),
    ("bus", "truck", "fire truck"), ("duck", "swan"), ("sailboat", "canoe"), ("airplane", "helicopter", "eagle"),
    ("tree", "pine tree", "palm tree"), ("boy", "man"), ("girl", "woman"), ("pizza", "cake", "hamburger"),
    ("penguin", "rabbit"), ("tiger", "dog"), ("monkey", "squirrel"), ("skier", "cyclist"), ("bicycle", "motorcycle"),
)  # fmt: skip


def _vary(rng: Generator, base: Plan, factor: str) -> Plan | None:
    """The base with one factor of its first group changed; None where nothing fits."""
    first, rest = base.groups[0], base.groups[1:]
    options: list[Plan] = []
    if factor == "place":
        options = [replace(base, place=place) for place in PLACES if place != base.place]
    else:
        options = [replace(base, groups=(changed, *rest)) for changed in _changes(first, factor, base.place)]
    others = [group.kind for group in rest]
    options = [o for o in options if possible(o) and o.groups[0].kind not in others]
    return pick(rng, options) if options else None


def _changes(group: Group, factor: str, place: str) -> list[Group]:
    if factor == "number" and not group.relation:
        return [replace(group, number=n) for n in range(1, 4) if n != group.number]
    if factor == "kind":
        return [replace(group, kind=k) for twins in TWINS if group.kind in twins for k in twins if k != group.kind]
    if factor == "deed" and not group.relation:
        return [replace(group, deed=d) for d in deeds(group.kind, place) if d != group.deed]
    if factor == "colour" and group.colour:
        return [replace(group, colour=c) for c in COLOURS if c != group.colour]
    return []
