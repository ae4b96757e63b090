"""Which scene has which number: families that differ in one factor, and scenes that stand alone.

Scenes come in blocks of ten. The first four of a block are a family: a scene and three that differ from it in
exactly one factor each (number, kind, place, action or color); where a scene cannot be varied so, a scene of its own
stands in. The other six stand alone. Every second family
starts from one of four themes, so that some sentences have many true scenes and many near misses.
"""

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from data.demo.scenes.kinds import COLORS, PLACES, is_allowed
from data.demo.scenes.scene import (
    OTHER_FAMILY_WEIGHTS,
    PLAN,
    Group,
    SceneSpec,
    choice,
    list_actions,
    make_rng,
    sample_group,
    sample_scene,
    used_kinds,
)

BLOCK, FAMILY = 10, 4
FACTORS = ("number", "kind", "place", "action", "color")


def plan_scene(seed: int, index: int) -> SceneSpec:
    """The plan of one scene: the same whatever was planned before."""
    block, member = divmod(index, BLOCK)
    if member >= FAMILY:
        return sample_scene(make_rng(seed, index, PLAN))
    rng = make_rng(seed, block * BLOCK, PLAN)
    base = _theme(rng, block // 2 % 4) if block % 2 == 0 else sample_scene(rng)
    family = [replace(base, family=block)]
    order = [FACTORS[i] for i in np.argsort([rng.random() for _ in FACTORS])]
    for factor in order * 2:
        changed = _vary(rng, base, factor)
        known = [(member.place, member.groups) for member in family]
        if changed and len(family) < FAMILY and (changed.place, changed.groups) not in known:
            family.append(replace(changed, family=block, factor=factor))
    while len(family) < FAMILY:
        family.append(sample_scene(rng))
    return family[member]


def is_possible(plan: SceneSpec) -> bool:
    """Whether every group may do what it does where it is."""
    return all(is_allowed(group.kind, group.action, plan.place) for group in plan.groups)


def _theme(rng: Generator, theme: int) -> SceneSpec:
    place, group = (
        ("street", Group("dog", 2, "run")),
        (
            choice(rng, ("stage", "street", "park", "living room")),
            Group("woman", 1, "hold:violin", choice(rng, COLORS)),
        ),
        (
            choice(rng, ("baseball field", "baseball field", "park")),
            Group("boy", choice(rng, (2, 3)), "play:baseball bat", choice(rng, COLORS)),
        ),
        ("lake", Group("man", 1, "look", choice(rng, COLORS))),
    )[theme]
    groups = [group]
    for chance in (0.8, 0.3):
        if rng.random() < chance:
            groups.append(sample_group(rng, place, OTHER_FAMILY_WEIGHTS, used_kinds(groups)))
    return SceneSpec(place, tuple(groups))


TWINS = (
    ("dog", "cat", "rabbit", "pig", "squirrel"), ("man", "woman", "old man"), ("boy", "girl"), ("old man", "old woman"),
    ("horse", "cow", "deer", "goat", "sheep"), ("elephant", "camel", "giraffe"), ("car", "taxi", "police car"),
    ("bus", "truck", "fire truck"), ("duck", "swan"), ("sailboat", "canoe"), ("airplane", "helicopter", "eagle"),
    ("tree", "pine tree", "palm tree"), ("boy", "man"), ("girl", "woman"), ("pizza", "cake", "hamburger"),
    ("penguin", "rabbit"), ("tiger", "dog"), ("monkey", "squirrel"), ("skier", "cyclist"), ("bicycle", "motorcycle"),
)  # fmt: skip


def _vary(rng: Generator, base: SceneSpec, factor: str) -> SceneSpec | None:
    """The base with one factor of its first group changed; None where nothing fits."""
    first, rest = base.groups[0], base.groups[1:]
    options: list[SceneSpec] = []
    if factor == "place":
        options = [replace(base, place=place) for place in PLACES if place != base.place]
    else:
        options = [replace(base, groups=(changed, *rest)) for changed in _changes(first, factor, base.place)]
    others = [group.kind for group in rest]
    options = [o for o in options if is_possible(o) and o.groups[0].kind not in others]
    return choice(rng, options) if options else None


def _changes(group: Group, factor: str, place: str) -> list[Group]:
    if factor == "number" and not group.relation:
        return [replace(group, number=n) for n in range(1, 4) if n != group.number]
    if factor == "kind":
        return [replace(group, kind=k) for twins in TWINS if group.kind in twins for k in twins if k != group.kind]
    if factor == "action" and not group.relation:
        return [replace(group, action=d) for d in list_actions(group.kind, place) if d != group.action]
    if factor == "color" and group.color:
        return [replace(group, color=c) for c in COLORS if c != group.color]
    return []
