"""Facts of the demo dataset by which results are divided."""

import json

import pytest

from data.demo import PLACES, count_objects, find_word_classes, iter_nouns, list_word_classes


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("Two dogs.", {"number", "noun: animal"}),
        ("A red fire truck is parked on a street.", {"color", "action", "place", "noun: vehicle"}),
        ("A man is standing on the baseball diamond.", {"action", "place", "noun: person"}),
        ("There is a boy near a red barn.", {"place", "noun: person"}),
        ("A kitty in front of snowy mountains.", {"place", "noun: animal"}),
        ("A kitty in front of a tree on the left.", {"relation", "side", "noun: animal", "noun: plant"}),
        ("A couple of children holding slices of pizza.", {"number", "action", "noun: person", "noun: food"}),
        ("Zzz.", set()),
    ],
)
def test_caption_has_the_classes_of_its_words(caption, classes):
    assert find_word_classes(caption) == classes
    assert classes <= set(list_word_classes())


def test_objects_of_a_scene_are_its_boxes_without_the_place(tmp_path):
    scenes = {"a.jpg": ["dog", "dog", "tree", PLACES[0]], "b.jpg": [PLACES[3]]}
    boxes = {name: {"labels": labels, "boxes": [[0, 0, 1, 1]] * len(labels)} for name, labels in scenes.items()}
    (tmp_path / "boxes.json").write_text(json.dumps({"classes": [], "images": boxes}))
    assert count_objects(tmp_path) == {"a.jpg": 3, "b.jpg": 0}


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("Two spotted dogs and an elderly man on a baseball field.", [("dog", "dogs"), ("old man", "man")]),
        ("A skier in an orange jacket is looking at the snowy trees.", [("skier", "skier")]),
        ("A person is playing baseball, and a boy is hitting a baseball.", [("boy", "boy"), ("baseball", "baseball")]),
        ("A woman in a red dress, playing violins near a red barn", [("dancer", "woman"), ("violin", "violins")]),
    ],
)
def test_nouns_name_the_kinds_of_drawn_things(caption, nouns):
    found = [(noun.kind, caption[: noun.end].split()[-1].strip(",")) for noun in iter_nouns(caption)]
    assert found == nouns
