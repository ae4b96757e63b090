"""Regions that explain a hit, with a model whose vectors are sums: what a region adds is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from data.alignment import Embeddings
from pipeline.search.explain import MAX_CANDIDATES, OVERHEAD_BYTES, REGIONS_PER_HIT, RegionRemover, remove_regions
from pipeline.search.stored_images import StoredImage

QUERY = np.array([1, 0], np.float32)


class FakeStore:
    """A region store of images whose region features are given; detector scores fall from region to region."""

    def __init__(self, features, class_ids=None, recipe=None):
        self.features = {name: np.array(rows, np.float32) for name, rows in features.items()}
        self.class_ids = class_ids or {name: [-1, *range(len(rows) - 1)] for name, rows in features.items()}
        self.recipe = {"classes": ["dog", "cat", "tree"]} if recipe is None else recipe
        self.store = self

    def __contains__(self, name):
        return name in self.features

    def read_images(self, names):
        return [self.read_image(name) for name in names]

    def read_image(self, name):
        rows = self.features[name]
        boxes = np.arange(4 * len(rows), dtype=np.float32).reshape(-1, 4)
        regions = rows, boxes, (640, 480), np.linspace(1, 0.5, len(rows))
        return StoredImage(regions, np.array(self.class_ids[name]))


ENCODER = SimpleNamespace(embed_regions=lambda images: Embeddings(np.stack([rows.sum(axis=0) for rows, *_ in images])))


def find(store, *names):
    removed = remove_regions(names, store, ENCODER)
    return [removed[name].find_matching(QUERY) if name in removed else () for name in names]


def test_regions_are_those_that_raise_the_score_and_their_score_is_the_gain():
    rows = [[0.5, 0], [0.1, 9], [-0.3, 0], [0.4, 0]]  # whole image, dog, cat (lowers), tree
    (regions,) = find(FakeStore({"a": rows}), "a")
    assert [region.label for region in regions] == ["tree", "dog"]
    assert [region.score for region in regions] == pytest.approx([0.4, 0.1], abs=1e-3)
    assert regions[0].box == (12, 13, 14, 15)


@pytest.mark.parametrize(
    ("rows", "class_ids", "labels"),
    [
        pytest.param([[0.9, 0], [-0.1, 0], [0, 1]], None, [], id="no region raises it"),
        pytest.param([[0.9, 0], [0.001, 0]], None, [], id="a gain too small to show"),
        pytest.param([[0.9, 0], [0.3, 0]], [-1, -1], ["", ""], id="regions without classes"),
        pytest.param([[0.9, 0]], [0], [], id="an only region cannot be removed"),
        pytest.param([[0, 0]] + [[0.1, 0]] * 30, [-1] + [0] * 30, ["dog", "dog"], id="many regions"),
        pytest.param([[0, 0]] + [[0, 0]] * MAX_CANDIDATES + [[1, 0]], None, [], id="an uncertain region"),
    ],
)
def test_no_box_is_drawn_without_a_reason(rows, class_ids, labels):
    store = FakeStore({"a": rows}, class_ids and {"a": class_ids}, {"classes": ["dog"] * 99})
    (regions,) = find(store, "a")
    assert [region.label for region in regions] == labels
    assert len(regions) <= REGIONS_PER_HIT


def test_each_hit_gets_its_own_regions():
    store = FakeStore({"a": [[0, 1], [0.2, 0]], "b": [[0, 1], [0, 1], [0.7, 0], [0.1, 0]]})
    a, missing, b = find(store, "a", "gone", "b")
    assert missing == ()
    assert [(r.label, round(r.score, 3)) for r in a] == [("dog", 0.2)]
    assert [(r.label, round(r.score, 3)) for r in b] == [("cat", 0.7), ("tree", 0.1)]
    assert find(FakeStore({"a": [[1, 1], [1, 1]]}, recipe={"extractor": "grid"}), "a") == [()]
    assert find(store, "gone") == [()]
    assert find(store) == []


def test_images_are_embedded_once_within_the_bound(monkeypatch):
    features = {f"{i}.jpg": [[0, 1], [0.1 * i, 0]] for i in range(6)} | {"alone": [[1, 1]]}
    store, embedded = FakeStore(features), []

    def embed(images):
        embedded.append(len(images))
        return ENCODER.embed_regions(images)

    remover = RegionRemover(store, SimpleNamespace(embed_regions=embed))
    names = ["1.jpg", "2.jpg", "alone", "gone"]
    first = remover.remove(names)
    assert sorted(first) == ["1.jpg", "2.jpg"]
    assert all(remover.remove(names)[name] is first[name] for name in first)
    assert embedded == [4], "two images, each with one variant"
    monkeypatch.setattr("pipeline.search.explain.MAX_KEPT_BYTES", 3 * (OVERHEAD_BYTES + 4))
    remover.remove(["3.jpg", "4.jpg", "5.jpg"])
    remover.remove(["3.jpg", "5.jpg"])
    assert embedded == [4, 6]
    remover.remove(["1.jpg"])
    assert embedded == [4, 6, 2], "the oldest was dropped"
    expected = remove_regions(["3.jpg"], store, ENCODER)["3.jpg"]
    assert remover.remove(["3.jpg"])["3.jpg"].find_matching(QUERY) == expected.find_matching(QUERY)


def test_many_images_are_embedded_in_passes(monkeypatch):
    monkeypatch.setattr("pipeline.search.explain.IMAGES_PER_PASS", 2)
    store, embedded = FakeStore({f"{i}.jpg": [[0, 1], [0.1 * i, 0]] for i in range(5)}), []

    def embed(images):
        embedded.append(len(images))
        return ENCODER.embed_regions(images)

    removed = RegionRemover(store, SimpleNamespace(embed_regions=embed)).remove(store.features)
    assert (sorted(removed), embedded) == (sorted(store.features), [4, 4, 2])
