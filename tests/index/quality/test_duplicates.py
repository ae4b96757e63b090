"""Groups of copies against a slow loop over all pairs, and what decides which image of a group is kept."""

import numpy as np
import pytest

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata.schema import Row
from index.quality import duplicates as module
from index.quality.duplicates import assign_near_copies, find_duplicates
from index.search.index import Index
from index.search.near_copies import find_distinct
from tests.helpers.index_world import make, unit


def assign_slowly(vectors, min_cosine):
    """For each vector: the most similar one of the earlier vectors that are no copies, or itself."""
    owners = []
    for i, vector in enumerate(vectors):
        cosines = {j: float(vectors[j] @ vector) for j in range(i) if owners[j] == j}
        near = {j: cosine for j, cosine in cosines.items() if cosine >= min_cosine}
        owners.append(max(near, key=near.__getitem__) if near else i)
    return owners


def make_copies(seed=0, count=150):
    """Make clusters of vectors, of which many are near copies of each other and form chains."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((25, 16))
    return unit(
        centers[rng.integers(0, 25, count)] + rng.uniform(0.05, 0.6, (count, 1)) * rng.standard_normal((count, 16))
    )


@pytest.mark.parametrize("min_cosine", [0.5, 0.8, 0.9, 0.97])
def test_near_copies_equal_a_loop_over_all_pairs(min_cosine, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(module, "BLOCK", 20)
    vectors = make_copies()
    counts = []
    owners, cosines = assign_near_copies(vectors, min_cosine, counts.append)
    expected = assign_slowly(vectors, min_cosine)
    assert owners.tolist() == expected
    assert sum(owner != i for i, owner in enumerate(expected)) > 25, "there are copies"
    np.testing.assert_allclose(cosines, np.einsum("nd,nd->n", vectors, vectors[expected]), atol=2e-3)
    assert sum(counts) == len(vectors)


def test_distinct_vectors_equal_a_loop_and_do_not_depend_on_how_deep_one_looks():
    vectors = make_copies(1, 400)
    expected = []
    for i, vector in enumerate(vectors):
        if all(float(vectors[j] @ vector) < 0.9 for j in expected):
            expected.append(i)
    assert find_distinct(vectors, 1000, 0.9) == expected
    assert find_distinct(vectors, 20, 0.9) == find_distinct(vectors[:200], 20, 0.9) == expected[:20]
    assert find_distinct(vectors[:0], 5) == []


# Angles of the images in degrees: cosine 0.9 is 25.8 degrees. b is near a and c, which are not near each other.
ANGLES = {"a": 0, "a-other-name": 0, "b": 19, "c": 42, "small-c": 43, "far": 180, "far-too": 181, "alone": 100}
ROWS = [
    Row("image", "a", "a", path="a.jpg", split="train", width=90, height=90, content_hash="h1"),
    Row("image", "a-other-name", "a-other-name", path="x.jpg", split="test", width=90, height=90, content_hash="h1"),
    Row("image", "b", "b", path="b.jpg", split="train", width=50, height=50, content_hash="h2"),
    Row("image", "c", "c", path="c.jpg", split="val", width=80, height=80, content_hash="h3"),
    Row("image", "small-c", "small-c", path="s.jpg", split="val", width=20, height=20, content_hash="h4"),
    Row("image", "far", "far", path="f.jpg", width=30, height=30),
    Row("image", "far-too", "far-too", path="g.jpg", width=30, height=30),
    Row("image", "alone", "alone", path="l.jpg", width=10, height=10, content_hash="h5"),
]
SIZES = {"far": 100, "far-too": 200}


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    radians = np.deg2rad(list(ANGLES.values()))
    vectors = unit(np.stack([np.cos(radians), np.sin(radians), *np.zeros((6, len(radians)))], 1))
    root = tmp_path_factory.mktemp("copies")
    images = Collection([row.id for row in ROWS], vectors, ROWS)
    build_index(IndexConfig(nlist=1), IndexInputs({"image": images}, {"image": vectors}, {}), root)
    with Index.open(root) as index:
        yield index


def list_groups(index, min_cosine):
    groups = find_duplicates(index, lambda row: SIZES.get(row.id), min_cosine)
    return [tuple(image.row.id for image in group.images) for group in groups]


def test_groups_have_no_chains_and_begin_with_the_largest_image(copies):
    assert list_groups(copies, 0.9) == [("a", "a-other-name", "b"), ("c", "small-c"), ("far-too", "far")]
    groups = find_duplicates(copies, lambda row: SIZES.get(row.id), 0.9)
    assert [group.is_leak for group in groups] == [True, False, False]
    assert groups[0].splits == ("test", "train")
    assert [image.is_exact for image in groups[0].images] == [True, True, False]
    assert [image.cosine for image in groups[0].images] == pytest.approx([1, 1, np.cos(np.deg2rad(19))], abs=2e-3)
    assert [image.size_bytes for image in groups[2].images] == [200, 100]
    assert not any(group.is_exact for group in groups)


def test_threshold_of_one_finds_equal_content_under_other_names_only(copies):
    assert list_groups(copies, 1) == [("a", "a-other-name")]


@pytest.mark.parametrize("threshold", [-1, 0, 0.49, 1.01, float("nan"), float("inf")])
def test_threshold_out_of_range_is_refused(threshold, copies):
    with pytest.raises(ValueError, match=r"The threshold is .*\. Pass a cosine from 0\.5 to 1\."):
        find_duplicates(copies, lambda row: None, threshold)


def test_index_of_captions_alone_has_no_images_to_compare(tmp_path):
    collections, queries = make(images=20)
    captions = collections["caption"]
    build_index(IndexConfig(nlist=1), IndexInputs({"caption": captions}, {"caption": queries["caption"]}, {}), tmp_path)
    with Index.open(tmp_path) as index, pytest.raises(ValueError, match="has no 'image' collection; it has caption"):
        find_duplicates(index, lambda row: None)
