"""What a scene says, before it is laid out: a place, and groups of things that do something there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from numpy.random import PCG64, Generator, SeedSequence

from data.demo.scenes.kinds import ACTIONS, COLORS, KINDS, PLACES, is_allowed

PLAN, LAYOUT, PAINT, WORDS = range(4)  # random streams: changing one never changes another
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Things of one kind that do the same. `relation` points at the group number `target`; -1: none."""

    kind: str
    number: int
    action: str
    color: str = ""  # of the shirts; empty: mixed, or no shirt
    relation: str = ""  # next to | in front of | chasing | on | under
    target: int = -1


@dataclass(frozen=True)
class SceneSpec:
    """A scene without positions. `factor`: in what it differs from the first of its family."""

    place: str
    groups: tuple[Group, ...]
    family: int = -1
    factor: str = ""


def make_rng(seed: int, index: int, which: int) -> Generator:
    """The random numbers of one use in one scene."""
    return Generator(PCG64(SeedSequence([seed, index, which])))


def choice(rng: Generator, options: Sequence[T]) -> T:
    """One of the options, all alike."""
    return options[int(rng.random() * len(options))]


def weighted_choice(rng: Generator, options: dict[T, float]) -> T:
    """One of the options, by weight."""
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
    """A scene that belongs to no family."""
    if rng.random() < 0.3:
        return _joined(rng, choice(rng, RELATIONS))
    place = choice(rng, PLACES)
    groups = [sample_group(rng, place, MAIN_FAMILY_WEIGHTS, ())]
    for chance in (0.85, 0.42):
        if rng.random() < chance:
            groups.append(sample_group(rng, place, OTHER_FAMILY_WEIGHTS, used_kinds(groups)))
    return SceneSpec(place, _relate(rng, groups))


def _joined(rng: Generator, relation: str) -> SceneSpec:
    """A scene around one relation, drawn again until two things fit it."""
    while True:
        place = choice(rng, PLACES)
        first = sample_group(rng, place, {"person": 3, "animal": 2}, ())
        other = replace(sample_group(rng, place, OTHER_FAMILY_WEIGHTS, (first.kind,)), number=1)
        if KINDS[other.kind].zone == "ground" and relation in _relations(first, other):
            number = min(first.number, 2) if relation in ("on", "under", "in front of") else first.number
            groups = [replace(first, number=number, relation=relation, target=1), other]
            if rng.random() < 0.4:
                groups.append(sample_group(rng, place, OTHER_FAMILY_WEIGHTS, used_kinds(groups)))
            return SceneSpec(place, tuple(groups))


def used_kinds(groups: list[Group]) -> tuple[str, ...]:
    """Kinds that stand in the scene already, by themselves or in a hand: a second group would blur the count."""
    return tuple(g.kind for g in groups) + tuple(g.action.partition(":")[2] for g in groups)


def sample_group(rng: Generator, place: str, families: dict[str, float], used: tuple[str, ...]) -> Group:
    """A group that may be in this place; `families` holds weights, `used` the kinds that are taken."""
    fits: dict[str, float] = {}
    here = [k for k in KINDS.values() if place in k.places and k.name not in used]
    alike = Counter(k.family for k in here)
    for kind in here:
        if kind.family in families:
            share = families[kind.family] / alike[kind.family]
            fits[kind.name] = share if kind.family == "person" else share * 3 / len(kind.places) ** 0.5
    kind = weighted_choice(rng, fits)
    return assign_shirts(rng, Group(kind, sample_count(rng, kind), sample_action(rng, kind, place)))


def sample_count(rng: Generator, kind: str) -> int:
    """One to four; large things come alone or in pairs."""
    family = KINDS[kind].family
    if family in ("furniture", "boat", "aircraft", "rider") or kind in ("elephant", "giraffe", "tent", "drum"):
        return weighted_choice(rng, {1: 5, 2: 1})
    if family == "vehicle":
        return weighted_choice(rng, {1: 5, 2: 2, 3: 0.5})
    return weighted_choice(rng, {1: 52, 2: 27, 3: 14, 4: 7})


def list_actions(kind: str, place: str) -> list[str]:
    """All that this kind may do in this place."""
    options = ACTIONS if KINDS[kind].family == "person" else KINDS[kind].actions
    return [option for option in options if is_allowed(kind, option, place)]


def sample_action(rng: Generator, kind: str, place: str) -> str:
    """Something this kind does in this place; what belongs to the place is likelier."""
    weights = {d: 0.6 if d.startswith("hold") else 1.0 for d in list_actions(kind, place)}
    for likely in ("play:baseball bat", "play:soccer ball", "look"):
        if likely in weights:
            weights[likely] = 2.5 if place in ("baseball field", "soccer field", "lake") else 0.8
    return weighted_choice(rng, weights)


def assign_shirts(rng: Generator, group: Group) -> Group:
    """Give people a shirt color, and a number that fits what they do."""
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


def _relate(rng: Generator, groups: list[Group]) -> tuple[Group, ...]:
    """Join the first group to a single thing among the others, where something is natural."""
    first, other = groups[0], groups[min(1, len(groups) - 1)]
    if len(groups) > 1 and other.number == 1 and KINDS[first.kind].zone == KINDS[other.kind].zone == "ground":
        relation = choice(rng, _relations(first, other) or ("",))
        if relation and rng.random() < 0.75:
            number = min(first.number, 2) if relation in ("on", "under") else first.number
            first = replace(first, relation=relation, target=1, number=number)
            groups = [first, *groups[1:]]
    return tuple(groups)


def _relations(first: Group, other: Group) -> list[str]:
    person, still = KINDS[first.kind].family == "person", first.action in ("stand", "sit", "sleep", "rest")
    options = []
    if still or first.action.startswith("hold"):
        options.append("next to")
        if other.kind in LARGE and first.action != "hold:kite" and first.number <= 2:
            options.append("in front of")
        if other.kind in SHELTERS and first.action != "hold:kite" and KINDS[first.kind].height < 130:
            options += ["under", "under"]
    if first.action == other.action == "run" and other.kind not in ("elephant", "horse", "camel", "cow"):
        options += ["chasing"] * 3
    if person and first.kind != "baby" and first.action == "sit" and other.kind in SEATS:
        return ["on"]
    return options
