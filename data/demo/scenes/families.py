"""Choose the content of each scene: families of scenes that differ in one factor, and independent scenes.

Scenes form blocks of ten. The first four of a block are a family: one scene, and three that differ from it in exactly
one factor each (number, kind, place, action or color). If a scene cannot be varied, an independent scene
replaces its variant. The other six are independent. Every second family starts from one of four themes, so that some
captions fit many scenes, and many other scenes nearly fit them.
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
    """Choose the content of one scene; it depends on `seed` and `index` only."""
    block, member = divmod(index, BLOCK)
    if member >= FAMILY:
        return sample_scene(make_rng(seed, index, PLAN))
    rng = make_rng(seed, block * BLOCK, PLAN)
    base = _sample_theme(rng, block // 2 % 4) if block % 2 == 0 else sample_scene(rng)
    family = [replace(base, family=block)]
    order = [FACTORS[i] for i in np.argsort([rng.random() for _ in FACTORS])]
    for factor in order * 2:
        changed = _vary_factor(rng, base, factor)
        known = [(member.place, member.groups) for member in family]
        if changed and len(family) < FAMILY and (changed.place, changed.groups) not in known:
            family.append(replace(changed, family=block, factor=factor))
    while len(family) < FAMILY:
        family.append(sample_scene(rng))
    return family[member]


def is_possible(spec: SceneSpec) -> bool:
    """Return whether every group can do its action in the place of the scene."""
    return all(is_allowed(group.kind, group.action, spec.place) for group in spec.groups)


def _sample_theme(rng: Generator, theme: int) -> SceneSpec:
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


# Kinds that replace each other in variants of a scene.
TWINS = (
    ("dog", "cat", "rabbit", "pig", "squirrel"), ("man", "woman", "old man"), ("boy", "girl"), ("old man", "old woman"),
    ("horse", "cow", "deer", "goat", "sheep"), ("elephant", "camel", "giraffe"), ("car", "taxi", "police car"),
    ("bus", "truck", "fire truck"), ("duck", "swan"), ("sailboat", "canoe"), ("airplane", "helicopter", "eagle"),
    ("tree", "pine tree", "palm tree"), ("boy", "man"), ("girl", "woman"), ("pizza", "cake", "hamburger"),
    ("penguin", "rabbit"), ("tiger", "dog"), ("monkey", "squirrel"), ("skier", "cyclist"), ("bicycle", "motorcycle"),
)  # fmt: skip


def _vary_factor(rng: Generator, base: SceneSpec, factor: str) -> SceneSpec | None:
    """Change one factor of the first group; return None if no other value is possible."""
    first, rest = base.groups[0], base.groups[1:]
    options: list[SceneSpec] = []
    if factor == "place":
        options = [replace(base, place=place) for place in PLACES if place != base.place]
    else:
        options = [replace(base, groups=(changed, *rest)) for changed in _list_changes(first, factor, base.place)]
    other_kinds = [group.kind for group in rest]
    options = [o for o in options if is_possible(o) and o.groups[0].kind not in other_kinds]
    return choice(rng, options) if options else None


def _list_changes(group: Group, factor: str, place: str) -> list[Group]:
    if factor == "number" and not group.relation:
        return [replace(group, number=n) for n in range(1, 4) if n != group.number]
    if factor == "kind":
        return [replace(group, kind=k) for twins in TWINS if group.kind in twins for k in twins if k != group.kind]
    if factor == "action" and not group.relation:
        return [replace(group, action=d) for d in list_actions(group.kind, place) if d != group.action]
    if factor == "color" and group.color:
        return [replace(group, color=c) for c in COLORS if c != group.color]
    return []
