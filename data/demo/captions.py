"""Generate five captions of a scene, as five people might write them: all true, some short, some incomplete."""

from dataclasses import dataclass, replace

from numpy.random import Generator

from data.demo.geometry import Scene
from data.demo.scenes.kinds import KINDS
from data.demo.scenes.scene import WORDS, Group, choice, make_rng
from data.demo.words import ACTION_PHRASES, ALONE, COUNTS, GROUNDS, LOOSE, VIEWS, noun_variants, place_phrases

MOVING = ("run", "walk", "drive", "ride", "ski")


@dataclass(frozen=True)
class Phrase:
    """One group in words."""

    who: str
    """Noun with article or number, such as "two dogs"."""
    be: str
    """The verb: "is" or "are"."""
    doing: str
    """Action as a participle; empty for things without an action."""
    group: Group


def generate_captions(scene: Scene) -> tuple[str, ...]:
    """Generate the captions of a scene, in random order; they depend on the scene only."""
    rng = make_rng(scene.seed, scene.index, WORDS)
    makers = [_write_full, _write_full, _write_with_sides, _write_partial, _write_short]
    if rng.random() < 0.5:
        makers[1] = _write_list
    sentences: list[str] = []
    for maker in makers:
        for _ in range(6):
            sentence = _format_sentence(maker(rng, scene))
            if sentence not in sentences:
                break
        sentences.append(sentence)
    order = sorted(range(5), key=[rng.random() for _ in sentences].__getitem__)
    return tuple(sentences[i] for i in order)


def _format_sentence(sentence: str) -> str:
    sentence = " ".join(sentence.split())
    for phrase in ("a pair of", "a group of"):
        sentence = sentence.replace(f"there are {phrase}", f"there is {phrase}")
        sentence = sentence.replace(f"There are {phrase}", f"There is {phrase}")
    return sentence[0].upper() + sentence[1:] + "."


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def with_count(rng: Generator, noun: str, number: int) -> str:
    """Put an article or a number before a noun.

    Args:
        rng: Random generator that chooses among the wordings of a number.
        noun: Noun, in the plural unless `number` is 1.
        number: Number of things, from 1 to the greatest key of `COUNTS`.
    """
    return with_article(noun) if number == 1 else f"{choice(rng, COUNTS[number])} {noun}"


def _name_group(rng: Generator, group: Group, color: bool) -> str:
    who = with_count(rng, choice(rng, noun_variants(group.kind, group.number)), group.number)
    if not (color and group.color):
        return who
    how = choice(rng, ("in", "in", "wearing"))
    return f"{who} {how} a {group.color} shirt" if group.number == 1 else f"{who} {how} {group.color} shirts"


def _describe_action(rng: Generator, group: Group, scene: Scene) -> str:
    """Describe the action of a group as a participle, with its relation."""
    verb, _, thing = group.action.partition(":")
    words = ACTION_PHRASES.get(group.action) or ACTION_PHRASES["ride:" if verb == "ride" and thing else verb]
    if group.number == 1 and group.action in ALONE:
        words = ALONE[group.action]
    text = choice(rng, words)
    if "{x}" in text:
        is_plural = group.number > 1 and not text.startswith(("kicking", "singing"))
        noun = choice(rng, noun_variants(thing, 2 if is_plural else 1))
        if is_plural and verb == "play" and text.startswith("playing"):
            text = text.replace("{x}", f"the {noun_variants(thing, 1)[0]}" if rng.random() < 0.5 else noun)
        text = text.replace("{x}", noun if is_plural else with_article(noun))
    relation = group.relation and _describe_relation(rng, group, scene)
    if relation and group.action == "sit":
        return f"sitting {relation}"
    text = text.format(
        ground=choice(rng, GROUNDS.get(scene.place, ("on the ground",))),
        view=choice(rng, VIEWS.get(scene.place, ("",))),
    )
    if group.relation == "chasing":
        return relation if rng.random() < 0.6 else f"running after {relation.removeprefix('chasing ')}"
    return f"{text} {relation}".strip() if relation else text


def _describe_relation(rng: Generator, group: Group, scene: Scene) -> str:
    other = _name_group(rng, scene.groups[group.target], color=rng.random() < 0.4)
    words = {"next to": ("next to", "beside", "next to"), "under": ("under", "under", "underneath")}
    return f"{choice(rng, words.get(group.relation, (group.relation,)))} {other}"


def _make_phrase(rng: Generator, group: Group, scene: Scene, color: bool) -> Phrase:
    return Phrase(
        _name_group(rng, group, color), "is" if group.number == 1 else "are", _describe_action(rng, group, scene), group
    )


def _describe_place(rng: Generator, group: Group, scene: Scene) -> str:
    """Describe the place of the scene in words that suit the group; empty if its action names the place."""
    zone = KINDS[group.kind].zone
    if zone == "table":
        return choice(rng, ("on a kitchen counter", "on the counter of a kitchen", "in a kitchen"))
    if group.action == "look":
        return ""
    if zone in ("water", "sky"):
        return choice(rng, place_phrases(scene.place, zone))
    moving = group.action.partition(":")[0] in MOVING
    return choice(rng, place_phrases(scene.place, "moving" if moving and rng.random() < 0.6 else "ground"))


def _describe_side(rng: Generator, group: Group, scene: Scene) -> str:
    """Describe where in the image a group is if it is clearly on one side or behind; else "nearby"."""
    things = [t for t in scene.things if scene.groups[t.group] == group]
    across = [t.x / scene.size[0] for t in things]
    if max(across) < 0.46:
        return choice(rng, ("on the left", "on the left", "on the left side"))
    if min(across) > 0.54:
        return choice(rng, ("on the right", "on the right", "on the right side"))
    first = [t.y for t in scene.things if t.group == 0]
    if KINDS[group.kind].zone == "ground" and max(t.y for t in things) + 12 < min(first):
        return "in the background"
    return "nearby" if group is not scene.groups[0] else ""


def _list_other_groups(scene: Scene) -> list[Group]:
    """List all groups except the first one and the target of its relation."""
    first = scene.groups[0]
    return [g for i, g in enumerate(scene.groups) if i and not (first.relation and i == first.target)]


def _write_clause(rng: Generator, part: Phrase, where: str) -> str:
    """Write a clause about one group."""
    if not part.doing:
        return choice(rng, (f"there {part.be} {part.who} {where}", f"{part.who} {where}"))
    if part.doing.startswith("with "):
        return f"{part.who} {part.doing} {where}".strip()
    forms = [f"{part.who} {part.be} {part.doing} {where}"] * 3 + [f"{part.who} {part.doing} {where}"] * 2
    if where and not part.doing.startswith(("looking", "standing,", "gazing", "staring")):
        forms.append(f"{where}, {part.who} {part.be} {part.doing}")
    return choice(rng, forms).strip()


def _add_phrase(rng: Generator, sentence: str, part: Phrase, side: str) -> str:
    """Add another group to a sentence, with a connective that the sentence does not have yet."""
    separate = f"{sentence}. {part.who[0].upper()}{part.who[1:]}"
    if not part.doing:
        there = f"there {part.be} {part.who} {side or 'nearby'}"
        options = [f"{sentence}. {there[0].upper()}{there[1:]}", f"{sentence} and {there}"]
        if " with " not in sentence:
            options += [f"{sentence} with {part.who} {side or 'nearby'}"] * 2
        return choice(rng, [option for option in options if option.count(" and there ") < 2])
    doing = part.doing.replace("with ", "holding ", 1) if part.doing.startswith("with ") else part.doing
    if doing in ("standing", "sleeping", "fast asleep", "parked") or (
        side not in ("", "nearby") and rng.random() < 0.5
    ):
        doing = f"{doing} {side or 'nearby'}"
    options = [f"{separate} {part.be} {doing}"]
    for connective in (" while", " and"):
        if f"{connective} " not in sentence:
            options += [f"{sentence}{connective} {part.who} {part.be} {doing}"] * 2
    if " with " not in sentence:
        options.append(f"{sentence}, with {part.who} {doing}")
    return choice(rng, options)


def _write_full(rng: Generator, scene: Scene) -> str:
    """Write a sentence about all groups, the place and colors of shirts."""
    color = rng.random() < 0.8
    sentence = _write_clause(
        rng, _make_phrase(rng, scene.groups[0], scene, color), _describe_place(rng, scene.groups[0], scene)
    )
    for group in _list_other_groups(scene):
        side = _describe_side(rng, group, scene) if rng.random() < 0.5 else ""
        sentence = _add_phrase(rng, sentence, _make_phrase(rng, group, scene, color and rng.random() < 0.7), side)
    return sentence


def _write_with_sides(rng: Generator, scene: Scene) -> str:
    """Write a sentence about all groups, with their sides where they are clear."""
    first = _make_phrase(rng, scene.groups[0], scene, rng.random() < 0.5)
    side = _describe_side(rng, scene.groups[0], scene)
    where = choice(rng, place_phrases(scene.place, "ground"))
    if not side or first.group.action == "look" or KINDS[first.group.kind].zone != "ground":
        sentence = _write_clause(rng, first, _describe_place(rng, scene.groups[0], scene))
    else:
        doing = f"{first.be} {first.doing} {side}" if first.doing[:5] != "with " else f"{first.doing} {side}"
        sentence = f"{where}, {first.who} {doing}" if first.doing else f"{where}, there {first.be} {first.who} {side}"
    for group in _list_other_groups(scene):
        sentence = _add_phrase(
            rng, sentence, _make_phrase(rng, group, scene, rng.random() < 0.3), _describe_side(rng, group, scene)
        )
    return sentence


def _write_list(rng: Generator, scene: Scene) -> str:
    """Write a sentence that lists all groups; a scene with one group gets `_write_full`."""
    if len(scene.groups) == 1:
        return _write_full(rng, scene)
    names = []
    for group in scene.groups:
        part = _make_phrase(rng, group, scene, True) if not group.relation else None
        with_action = part is not None and part.doing and KINDS[group.kind].zone == "ground" and rng.random() < 0.7
        names.append(f"{part.who} {part.doing}" if with_action and part else _name_group(rng, group, True))
    be = "is" if scene.groups[0].number == 1 else "are"
    where = choice(rng, place_phrases(scene.place, "ground"))
    groups = ", ".join(names[:-1]) + (", and " if len(names) > 2 else " and ") + names[-1]
    return choice(rng, (f"there {be} {groups} {where}", f"{where}, there {be} {groups}", f"{where} we see {groups}"))


def _write_partial(rng: Generator, scene: Scene) -> str:
    """Write a sentence about the first group and at most one other, sometimes without the place."""
    first = scene.groups[0]
    others = _list_other_groups(scene)
    where = _describe_place(rng, first, scene) if rng.random() < 0.75 or not others else ""
    sentence = _write_clause(rng, _make_phrase(rng, first, scene, rng.random() < 0.6), where)
    if others:
        sentence = _add_phrase(rng, sentence, _make_phrase(rng, choice(rng, others), scene, rng.random() < 0.4), "")
    return sentence


def _write_short(rng: Generator, scene: Scene) -> str:
    """Write a short sentence about the first group."""
    first = scene.groups[0]
    part = _make_phrase(rng, first, scene, rng.random() < 0.4)
    if first.kind in LOOSE and rng.random() < 0.2:
        word = LOOSE[first.kind][first.number > 1]
        part = replace(part, who=with_count(rng, word, first.number))
    if part.doing and rng.random() < 0.25:
        return f"{part.who} {'' if part.doing[:5] == 'with ' or rng.random() < 0.5 else part.be + ' '}{part.doing}"
    return _write_clause(rng, part, _describe_place(rng, first, scene))
