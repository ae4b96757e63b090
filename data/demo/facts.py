"""Facts about scenes and captions of the demo dataset, by which results are divided: objects and classes of words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data.demo.scenes.kinds import COLORS, KINDS, PLACES
from data.demo.words import ACTION_PHRASES, COUNTS, LOOSE, noun_variants, place_phrases
from data.demo.write import BOXES
from data.io.files import read_json

NOUN = "noun: "
PLACE = "place"
WORDS = {
    "color": frozenset(COLORS),
    "number": frozenset(phrase.removesuffix(" of").split()[-1] for number in COUNTS.values() for phrase in number),
    "side": frozenset({"left", "right", "background"}),
    "relation": frozenset({"next", "beside", "under", "underneath", "front", "chasing", "after"}),
    "action": frozenset(
        phrase.split()[0].strip(",")
        for phrases in ACTION_PHRASES.values()
        for phrase in phrases
        if phrase[:5] not in ("", "with ")
    ),
}
"""Words by class. The other classes, `place` and nouns by family, are phrases."""


def count_objects(dataset_folder: Path) -> dict[str, int]:
    """Count the drawn things of each scene, by the id of its image; the place is no thing.

    Args:
        dataset_folder: Folder of the demo dataset, which has its boxes.
    """
    images = read_json(dataset_folder / BOXES)["images"]
    return {name: sum(label not in PLACES for label in scene["labels"]) for name, scene in images.items()}


def find_word_classes(caption: str) -> frozenset[str]:
    """Find the classes of the words of a caption: keys of `WORDS`, `place`, and `noun: FAMILY`, a family of `KINDS`.

    A name such as "red car" has a color word and a noun. The words of a place, such as "near a red barn", have no
    class of their own.
    """
    pattern, class_by_phrase = _make_pattern()
    text = caption.lower()
    phrases = {class_by_phrase[match] for match in pattern.findall(text)}
    rest = pattern.sub(lambda match: "" if class_by_phrase[match[0]] == PLACE else match[0], text)
    words = set(re.findall(r"[a-z]+", rest))
    return frozenset(phrases | {name for name, vocabulary in WORDS.items() if words & vocabulary})


@dataclass(frozen=True)
class Noun:
    """A noun of a caption that names a kind of drawn things."""

    kind: str
    """Key of `KINDS`."""
    end: int
    """One past the last character of its main word: "dogs" of "spotted dogs", "dancer" of "dancer in a red dress"."""


def iter_nouns(caption: str) -> Iterator[Noun]:
    """Yield the nouns that name one kind of drawn things.

    "person" may be several kinds, the baseball of "playing baseball" and of "baseball field" is no ball, and the trees
    of a view are part of the background.
    """
    pattern, _ = _make_pattern()
    text, kind_by_noun = caption.lower(), _list_kinds_by_noun()
    for match in pattern.finditer(text):
        kind = kind_by_noun.get(match[0])
        before = text[: match.start()]
        is_game = kind is not None and KINDS[kind].family == "ball" and before.endswith(("playing ", "game of "))
        if kind is not None and not is_game and not before.endswith("snowy "):
            yield Noun(kind, match.start() + len(re.split(" in | with ", match[0])[0]))


@cache
def _list_kinds_by_noun() -> dict[str, str]:
    return {noun: kind for kind in KINDS for number in (1, 2) for noun in noun_variants(kind, number)}


def list_word_classes() -> list[str]:
    """List all classes in the order in which tables show them."""
    families = dict.fromkeys(kind.family for kind in KINDS.values())
    return [*WORDS, PLACE, *(NOUN + family for family in families)]


@cache
def _make_pattern() -> tuple[re.Pattern[str], dict[str, str]]:
    """Make a pattern for places and nouns, longest first, so that "baseball field" is a place and has no "baseball"."""
    class_by_phrase = {noun: NOUN + KINDS[kind].family for noun, kind in _list_kinds_by_noun().items()}
    class_by_phrase |= {noun: NOUN + KINDS[name].family for name, pair in LOOSE.items() for noun in pair}
    for place in PLACES:
        for column in ("ground", "moving", "water", "sky"):
            class_by_phrase |= dict.fromkeys(filter(None, place_phrases(place, column)), PLACE)
    phrases = sorted(class_by_phrase, key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(map(re.escape, phrases)) + r")\b"), class_by_phrase
