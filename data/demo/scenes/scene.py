"""Content of a scene, without positions: a place, and groups of things with their actions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from numpy.random import PCG64, Generator, SeedSequence

from data.demo.scenes.kinds import ACTIONS, COLORS, KINDS, PLACES, is_allowed

PLAN, LAYOUT, PAINT, WORDS = range(4)  # random streams: a change of one never changes another
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Things of one kind with the same action.

    Attributes:
        color: Color of the shirts; empty for mixed colors, or without shirts.
        relation: Relation to the group `target`: next to, in front of, chasing, on or under; empty without one.
        target: Number of the group of the relation; -1 without one.
    """

    kind: str
    number: int
    action: str
    color: str = ""
    relation: str = ""
    target: int = -1


@dataclass(frozen=True)
class SceneSpec:
    """Content of a scene.

    Attributes:
        family: Number of the block whose family it belongs to; -1 for an independent scene.
        factor: Factor in which it differs from the first scene of its family; empty if there is none.
    """

    place: str
    groups: tuple[Group, ...]
    family: int = -1
    factor: str = ""


def make_rng(seed: int, index: int, stream: int) -> Generator:
    """Make the random generator of one stream of one scene.

    Args:
        seed: Random seed of the dataset.
        index: Number of the scene, from 0.
        stream: `PLAN`, `LAYOUT`, `PAINT` or `WORDS`.
    """
    return Generator(PCG64(SeedSequence([seed, index, stream])))


def choice(rng: Generator, options: Sequence[T]) -> T:
    """Choose one of the options with equal probabilities."""
    return options[int(rng.random() * len(options))]


def weighted_choice(rng: Generator, options: Mapping[T, float]) -> T:
    """Choose one of the options with probabilities in proportion to their weights."""
    left = rng.random() * sum(options.values())
    for option, weight in options.items():
        left -= weight
        if left < 0:
            return option
    return option


MAIN_FAMILY_WEIGHTS = {
    "person": 46, "animal": 20, "vehicle": 14, "rider": 8, "bird": 4, "boat": 5, "aircraft": 2, "object": 6,
    "food": 10, "furniture": 3,
}  # fmt: skip
OTHER_FAMILY_WEIGHTS = {
    "person": 20, "animal": 18, "plant": 10, "vehicle": 24, "object": 16, "furniture": 10, "bird": 11, "boat": 12,
    "aircraft": 13, "food": 26, "rider": 8, "instrument": 7, "ball": 6,
}  # fmt: skip
LARGE = ("bus", "truck", "car", "fire truck", "taxi", "police car", "tent", "tree", "tractor", "pine tree", "elephant")
SEATS = ("bench", "couch")
RELATIONS = ("next to", "in front of", "chasing", "on", "under")
SHELTERS = ("tree", "palm tree", "beach umbrella")


def sample_scene(rng: Generator) -> SceneSpec:
    """Sample an independent scene."""
    if rng.random() < 0.3:
        return _sample_related(rng, choice(rng, RELATIONS))
    place = choice(rng, PLACES)
    groups = [sample_group(rng, place, MAIN_FAMILY_WEIGHTS, ())]
    for chance in (0.85, 0.42):
        if rng.random() < chance:
            groups.append(sample_group(rng, place, OTHER_FAMILY_WEIGHTS, used_kinds(groups)))
    return SceneSpec(place, _add_relation(rng, groups))


def _sample_related(rng: Generator, relation: str) -> SceneSpec:
    """Sample a scene with a relation; repeat until two groups fit it."""
    while True:
        place = choice(rng, PLACES)
        first = sample_group(rng, place, {"person": 3, "animal": 2}, ())
        other = replace(sample_group(rng, place, OTHER_FAMILY_WEIGHTS, (first.kind,)), number=1)
        if KINDS[other.kind].zone == "ground" and relation in _list_relations(first, other):
            number = min(first.number, 2) if relation in ("on", "under", "in front of") else first.number
            groups = [replace(first, number=number, relation=relation, target=1), other]
            if rng.random() < 0.4:
                groups.append(sample_group(rng, place, OTHER_FAMILY_WEIGHTS, used_kinds(groups)))
            return SceneSpec(place, tuple(groups))


def used_kinds(groups: list[Group]) -> tuple[str, ...]:
    """Return the kinds in the scene, also those in hands.

    A second group of a kind would make its count ambiguous.
    """
    return tuple(g.kind for g in groups) + tuple(g.action.partition(":")[2] for g in groups)


def sample_group(rng: Generator, place: str, families: Mapping[str, float], used: tuple[str, ...]) -> Group:
    """Sample a group for a place.

    Args:
        rng: Random generator.
        place: Place of the scene.
        families: Weight of each family of kinds.
        used: Kinds that are in the scene already.
    """
    weights: dict[str, float] = {}
    candidates = [k for k in KINDS.values() if place in k.places and k.name not in used]
    num_by_family = Counter(k.family for k in candidates)
    for kind in candidates:
        if kind.family in families:
            share = families[kind.family] / num_by_family[kind.family]
            weights[kind.name] = share if kind.family == "person" else share * 3 / len(kind.places) ** 0.5
    name = weighted_choice(rng, weights)
    return assign_shirts(rng, Group(name, sample_count(rng, name), sample_action(rng, name, place)))


def sample_count(rng: Generator, kind: str) -> int:
    """Sample the number of things of a group, 1 to 4; 1 or 2 for large things."""
    family = KINDS[kind].family
    if family in ("furniture", "boat", "aircraft", "rider") or kind in ("elephant", "giraffe", "tent", "drum"):
        return weighted_choice(rng, {1: 5, 2: 1})
    if family == "vehicle":
        return weighted_choice(rng, {1: 5, 2: 2, 3: 0.5})
    return weighted_choice(rng, {1: 52, 2: 27, 3: 14, 4: 7})


def list_actions(kind: str, place: str) -> list[str]:
    """Return the actions of a kind that are possible in a place."""
    options = ACTIONS if KINDS[kind].family == "person" else KINDS[kind].actions
    return [option for option in options if is_allowed(kind, option, place)]


def sample_action(rng: Generator, kind: str, place: str) -> str:
    """Sample an action of a kind; actions that are typical of the place are more likely.

    Args:
        rng: Random generator.
        kind: Key of `KINDS`.
        place: Place at which the kind has at least one action.
    """
    weights = {d: 0.6 if d.startswith("hold") else 1.0 for d in list_actions(kind, place)}
    for likely in ("play:baseball bat", "play:soccer ball", "look"):
        if likely in weights:
            weights[likely] = 2.5 if place in ("baseball field", "soccer field", "lake") else 0.8
    return weighted_choice(rng, weights)


def assign_shirts(rng: Generator, group: Group) -> Group:
    """Sample the shirt color of a group of people, and limit their number by their action."""
    if KINDS[group.kind].family != "person":
        return group
    number = min(group.number, 2) if group.action.startswith(("ride", "hold:kite")) else group.number
    if group.action.startswith("hold") or group.action in (
        "play:violin",
        "play:guitar",
        "play:saxophone",
        "play:trumpet",
    ):
        number = min(number, 3)
    if group.action in ("play:baseball bat", "play:soccer ball", "play:basketball") and number == 1:
        number = choice(rng, (1, 2, 3))
    color = choice(rng, COLORS) if number == 1 or rng.random() < 0.6 else ""
    return replace(group, number=number, color=color)


def _add_relation(rng: Generator, groups: list[Group]) -> tuple[Group, ...]:
    """Add a relation between the first two groups if it is plausible."""
    first, other = groups[0], groups[min(1, len(groups) - 1)]
    if len(groups) > 1 and other.number == 1 and KINDS[first.kind].zone == KINDS[other.kind].zone == "ground":
        relation = choice(rng, _list_relations(first, other) or ("",))
        if relation and rng.random() < 0.75:
            number = min(first.number, 2) if relation in ("on", "under") else first.number
            first = replace(first, relation=relation, target=1, number=number)
            groups = [first, *groups[1:]]
    return tuple(groups)


def _list_relations(first: Group, other: Group) -> list[str]:
    is_person, is_still = KINDS[first.kind].family == "person", first.action in ("stand", "sit", "sleep", "rest")
    options = []
    if is_still or first.action.startswith("hold"):
        options.append("next to")
        if other.kind in LARGE and first.action != "hold:kite" and first.number <= 2:
            options.append("in front of")
        if other.kind in SHELTERS and first.action != "hold:kite" and KINDS[first.kind].height < 130:
            options += ["under", "under"]
    if first.action == other.action == "run" and other.kind not in ("elephant", "horse", "camel", "cow"):
        options += ["chasing"] * 3
    if is_person and first.kind != "baby" and first.action == "sit" and other.kind in SEATS:
        return ["on"]
    return options
