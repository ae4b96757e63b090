"""Five sentences about a scene, as five people might write them: all true, some short, some leave things out."""

from dataclasses import dataclass, replace

from numpy.random import Generator

from data.demo.geometry import Scene
from data.demo.scenes.kinds import KINDS
from data.demo.scenes.scene import WORDS, Group, choice, make_rng
from data.demo.words import ACTION_PHRASES, ALONE, COUNTS, GROUNDS, LOOSE, VIEWS, noun_variants, place_phrases

MOVING = ("run", "walk", "drive", "ride", "ski")


@dataclass(frozen=True)
class Phrase:
    """One group in words: who, the verb's form, what they do, where in the picture."""

    who: str
    be: str  # is | are
    doing: str  # may be empty: it is simply there
    group: Group


def generate_captions(scene: Scene) -> tuple[str, ...]:
    """Five sentences, in no special order; the same for the same scene."""
    rng = make_rng(scene.seed, scene.index, WORDS)
    makers = [_full, _full, _sided, _partial, _short]
    if rng.random() < 0.5:
        makers[1] = _listed
    sentences: list[str] = []
    for maker in makers:
        for _ in range(6):
            sentence = _finish(maker(rng, scene))
            if sentence not in sentences:
                break
        sentences.append(sentence)
    order = sorted(range(5), key=[rng.random() for _ in sentences].__getitem__)
    return tuple(sentences[i] for i in order)


def _finish(sentence: str) -> str:
    sentence = " ".join(sentence.split())
    for several in ("a pair of", "a group of"):
        sentence = sentence.replace(f"there are {several}", f"there is {several}")
        sentence = sentence.replace(f"There are {several}", f"There is {several}")
    return sentence[0].upper() + sentence[1:] + "."


def with_article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def with_count(rng: Generator, noun: str, number: int) -> str:
    """The noun with its number or article in front; for plurals the noun is a plural already."""
    return with_article(noun) if number == 1 else f"{choice(rng, COUNTS[number])} {noun}"


def _who(rng: Generator, group: Group, color: bool) -> str:
    who = with_count(rng, choice(rng, noun_variants(group.kind, group.number)), group.number)
    if not (color and group.color):
        return who
    how = choice(rng, ("in", "in", "wearing"))
    return f"{who} {how} a {group.color} shirt" if group.number == 1 else f"{who} {how} {group.color} shirts"


def _doing(rng: Generator, group: Group, scene: Scene) -> str:
    """The participle phrase, its relation included."""
    verb, _, thing = group.action.partition(":")
    words = ACTION_PHRASES.get(group.action) or ACTION_PHRASES["ride:" if verb == "ride" and thing else verb]
    if group.number == 1 and group.action in ALONE:
        words = ALONE[group.action]
    text = choice(rng, words)
    if "{x}" in text:
        several = group.number > 1 and not text.startswith(("kicking", "singing"))
        noun = choice(rng, noun_variants(thing, 2 if several else 1))
        if several and verb == "play" and text.startswith("playing"):
            text = text.replace("{x}", f"the {noun_variants(thing, 1)[0]}" if rng.random() < 0.5 else noun)
        text = text.replace("{x}", noun if several else with_article(noun))
    relation = group.relation and _relation(rng, group, scene)
    if relation and group.action == "sit":
        return f"sitting {relation}"
    text = text.format(
        ground=choice(rng, GROUNDS.get(scene.place, ("on the ground",))),
        view=choice(rng, VIEWS.get(scene.place, ("",))),
    )
    if group.relation == "chasing":
        return relation if rng.random() < 0.6 else f"running after {relation.removeprefix('chasing ')}"
    return f"{text} {relation}".strip() if relation else text


def _relation(rng: Generator, group: Group, scene: Scene) -> str:
    other = _who(rng, scene.groups[group.target], color=rng.random() < 0.4)
    words = {"next to": ("next to", "beside", "next to"), "under": ("under", "under", "underneath")}
    return f"{choice(rng, words.get(group.relation, (group.relation,)))} {other}"


def _part(rng: Generator, group: Group, scene: Scene, color: bool) -> Phrase:
    return Phrase(_who(rng, group, color), "is" if group.number == 1 else "are", _doing(rng, group, scene), group)


def _where(rng: Generator, group: Group, scene: Scene) -> str:
    """The place as this group is in it."""
    zone = KINDS[group.kind].zone
    if zone == "table":
        return choice(rng, ("on a kitchen counter", "on the counter of a kitchen", "in a kitchen"))
    if group.action == "look":
        return ""
    if zone in ("water", "sky"):
        return choice(rng, place_phrases(scene.place, zone))
    moving = group.action.partition(":")[0] in MOVING
    return choice(rng, place_phrases(scene.place, "moving" if moving and rng.random() < 0.6 else "ground"))


def _side(rng: Generator, group: Group, scene: Scene) -> str:
    """Where in the picture the group is, if it is clearly on one side or behind the first one; else "nearby"."""
    mine = [t for t in scene.things if scene.groups[t.group] == group]
    across = [t.x / scene.size[0] for t in mine]
    if max(across) < 0.46:
        return choice(rng, ("on the left", "on the left", "on the left side"))
    if min(across) > 0.54:
        return choice(rng, ("on the right", "on the right", "on the right side"))
    first = [t.y for t in scene.things if t.group == 0]
    if KINDS[group.kind].zone == "ground" and max(t.y for t in mine) + 12 < min(first):
        return "in the background"
    return "nearby" if group is not scene.groups[0] else ""


def _others(scene: Scene) -> list[Group]:
    """Groups after the first that its relation does not name already."""
    first = scene.groups[0]
    return [g for i, g in enumerate(scene.groups) if i and not (first.relation and i == first.target)]


def _clause(rng: Generator, part: Phrase, where: str) -> str:
    """One group as a sentence of its own."""
    if not part.doing:
        return choice(rng, (f"there {part.be} {part.who} {where}", f"{part.who} {where}"))
    if part.doing.startswith("with "):
        return f"{part.who} {part.doing} {where}".strip()
    forms = [f"{part.who} {part.be} {part.doing} {where}"] * 3 + [f"{part.who} {part.doing} {where}"] * 2
    if where and not part.doing.startswith(("looking", "standing,", "gazing", "staring")):
        forms.append(f"{where}, {part.who} {part.be} {part.doing}")
    return choice(rng, forms).strip()


def _join(rng: Generator, sentence: str, part: Phrase, side: str) -> str:
    """Add another group to a sentence, with a joint the sentence does not have yet."""
    apart = f"{sentence}. {part.who[0].upper()}{part.who[1:]}"
    if not part.doing:
        there = f"there {part.be} {part.who} {side or 'nearby'}"
        joints = [f"{sentence}. {there[0].upper()}{there[1:]}", f"{sentence} and {there}"]
        if " with " not in sentence:
            joints += [f"{sentence} with {part.who} {side or 'nearby'}"] * 2
        return choice(rng, [j for j in joints if j.count(" and there ") < 2])
    doing = part.doing.replace("with ", "holding ", 1) if part.doing.startswith("with ") else part.doing
    if doing in ("standing", "sleeping", "fast asleep", "parked") or (
        side not in ("", "nearby") and rng.random() < 0.5
    ):
        doing = f"{doing} {side or 'nearby'}"
    joints = [f"{apart} {part.be} {doing}"]
    for joint in (" while", " and"):
        if f"{joint} " not in sentence:
            joints += [f"{sentence}{joint} {part.who} {part.be} {doing}"] * 2
    if " with " not in sentence:
        joints.append(f"{sentence}, with {part.who} {doing}")
    return choice(rng, joints)


def _full(rng: Generator, scene: Scene) -> str:
    """Every group, the place, colors of shirts."""
    color = rng.random() < 0.8
    sentence = _clause(rng, _part(rng, scene.groups[0], scene, color), _where(rng, scene.groups[0], scene))
    for group in _others(scene):
        side = _side(rng, group, scene) if rng.random() < 0.5 else ""
        sentence = _join(rng, sentence, _part(rng, group, scene, color and rng.random() < 0.7), side)
    return sentence


def _sided(rng: Generator, scene: Scene) -> str:
    """Every group, with sides where they are clear."""
    first = _part(rng, scene.groups[0], scene, rng.random() < 0.5)
    side = _side(rng, scene.groups[0], scene)
    where = choice(rng, place_phrases(scene.place, "ground"))
    if not side or first.group.action == "look" or KINDS[first.group.kind].zone != "ground":
        sentence = _clause(rng, first, _where(rng, scene.groups[0], scene))
    else:
        doing = f"{first.be} {first.doing} {side}" if first.doing[:5] != "with " else f"{first.doing} {side}"
        sentence = f"{where}, {first.who} {doing}" if first.doing else f"{where}, there {first.be} {first.who} {side}"
    for group in _others(scene):
        sentence = _join(rng, sentence, _part(rng, group, scene, rng.random() < 0.3), _side(rng, group, scene))
    return sentence


def _listed(rng: Generator, scene: Scene) -> str:
    """Every group by name only, or with what it does where there is one group."""
    if len(scene.groups) == 1:
        return _full(rng, scene)
    whos = []
    for group in scene.groups:
        part = _part(rng, group, scene, True) if not group.relation else None
        acts = part is not None and part.doing and KINDS[group.kind].zone == "ground" and rng.random() < 0.7
        whos.append(f"{part.who} {part.doing}" if acts else _who(rng, group, True))
    be = "is" if scene.groups[0].number == 1 else "are"
    where = choice(rng, place_phrases(scene.place, "ground"))
    listed = ", ".join(whos[:-1]) + (", and " if len(whos) > 2 else " and ") + whos[-1]
    return choice(rng, (f"there {be} {listed} {where}", f"{where}, there {be} {listed}", f"{where} we see {listed}"))


def _partial(rng: Generator, scene: Scene) -> str:
    """The first group and at most one other; the place now and then left out."""
    first = scene.groups[0]
    others = _others(scene)
    where = _where(rng, first, scene) if rng.random() < 0.75 or not others else ""
    sentence = _clause(rng, _part(rng, first, scene, rng.random() < 0.6), where)
    if others:
        sentence = _join(rng, sentence, _part(rng, choice(rng, others), scene, rng.random() < 0.4), "")
    return sentence


def _short(rng: Generator, scene: Scene) -> str:
    """The first group alone, with few words."""
    first = scene.groups[0]
    part = _part(rng, first, scene, rng.random() < 0.4)
    if first.kind in LOOSE and rng.random() < 0.2:
        word = LOOSE[first.kind][first.number > 1]
        part = replace(part, who=with_count(rng, word, first.number))
    if part.doing and rng.random() < 0.25:
        return f"{part.who} {'' if part.doing[:5] == 'with ' or rng.random() < 0.5 else part.be + ' '}{part.doing}"
    return _clause(rng, part, _where(rng, first, scene))
