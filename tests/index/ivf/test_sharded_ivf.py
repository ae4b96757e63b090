"""The lists without the rest of an index: shards, dead rows, filters and rescoring against one big index and numpy."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from index.ivf.distance import float16_to_float32
from index.ivf.faiss_io import train_ivf, write_inverted_lists, write_trained_index
from index.ivf.sharded_ivf import ShardedIVF

ROWS, DIM, NLIST = 3000, 32, 24


class Whole:
    """float16 vectors under sorted keys."""

    def __init__(self, keys: np.ndarray, vectors: np.ndarray):
        order = np.argsort(keys)
        self.keys, self.vectors = keys[order], vectors[order].astype(np.float16)

    def get(self, keys: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self.keys, keys)
        assert np.array_equal(self.keys[places], keys)
        return self.vectors[places]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((60, DIM))
    points = centers[rng.integers(0, 60, ROWS + 33)] + 0.7 * rng.standard_normal((ROWS + 33, DIM))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    keys = rng.choice(2**62, ROWS, replace=False).astype(np.int64)
    return keys, points[:ROWS], points[ROWS:]


def lists(data, folder: Path, factory: str, shards: int, **more) -> tuple[ShardedIVF, faiss.IndexIVF]:
    """The shards, and one index that holds all of it."""
    keys, vectors, _ = data
    big = train_ivf(factory.replace("{nlist}", str(NLIST)), vectors, 0)
    write_trained_index(big, folder / "template")
    files = [folder / f"{i}.lists" for i in range(shards)]
    for i, file in enumerate(files):
        mine = keys % shards == i
        write_inverted_lists(folder / "template", file, [(keys[mine], vectors[mine])])
    big.add_with_ids(vectors, keys)
    return ShardedIVF(folder / "template", files, **more), big


def best(scores: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, list[list[int]]]:
    """The best k of (q, n) scores of the (n,) keys, by a slow sort."""
    found = [sorted(zip(-line, keys.tolist(), strict=True))[:k] for line in scores]
    return np.array([[-score for score, _ in line] for line in found]), [[key for _, key in line] for line in found]


@pytest.mark.parametrize(
    "factory", ["IVF{nlist},SQfp16", "IVF{nlist},SQ8", "IVF{nlist},RaBitQfs", "IVF{nlist},PQ16x4fs"]
)
@pytest.mark.parametrize("shards", [1, 4, 16])
@pytest.mark.parametrize(("filtered", "buried"), [(False, False), (True, False), (False, True), (True, True)])
def test_shards_with_filter_and_dead_rows_are_one_big_index(factory, shards, filtered, buried, data, tmp_path):
    keys, _, queries = data
    dead = keys[::5] if buried else None
    ours, big = lists(data, tmp_path, factory, shards, dead=dead)
    allowed = keys[::3] if filtered else keys
    living = np.setdiff1d(allowed, dead) if buried else allowed
    assert ours.ntotal == len(np.setdiff1d(keys, dead) if buried else keys)
    scores, found = ours.search(queries, 10, 7, allowed_keys=allowed if filtered else None)
    parameters = faiss.SearchParametersIVF(nprobe=7, sel=faiss.IDSelectorBatch(living))
    expected, ids = big.search(queries, 10, params=parameters)
    assert np.array_equal(scores, expected)
    for score, one, other in zip(scores, found, ids, strict=True):
        sure = score > score[-1]  # rows of one score at the end: either is right
        assert set(one[sure]) == set(other[sure])
    assert np.isin(found, living).all()


@pytest.mark.parametrize("factory", ["IVF{nlist},RaBitQfs", "IVF{nlist},PQ16x4fs"])
@pytest.mark.parametrize("shards", [1, 4])
def test_rescored_scores_are_of_whole_vectors(factory, shards, data, tmp_path):
    keys, vectors, queries = data
    dead = keys[::5]
    ours, big = lists(data, tmp_path, factory, shards, dead=dead, vectors=Whole(keys, vectors))
    true = queries @ vectors.T
    place = {key: i for i, key in enumerate(keys.tolist())}
    scores, found = ours.search(queries, 10, 7, rescore=80)
    _, candidates = big.search(
        queries, 80, params=faiss.SearchParametersIVF(nprobe=7, sel=faiss.IDSelectorNot(faiss.IDSelectorBatch(dead)))
    )
    same = 0
    for i, line in enumerate(candidates.tolist()):
        expected = sorted((key for key in line if key >= 0), key=lambda key, i=i: (-true[i, place[key]], key))[:10]
        np.testing.assert_allclose(scores[i], [true[i, place[key]] for key in found[i].tolist()], atol=1e-6)
        same += expected == found[i].tolist()
    assert same >= len(queries) - 1  # codes that tie at the 80th place may let in another
    living = ~np.isin(keys, dead)
    everything = ours.search(queries, 10, NLIST, rescore=ROWS)
    expected_scores, expected_keys = best(true[:, living], keys[living], 10)
    assert everything[1].tolist() == expected_keys
    np.testing.assert_allclose(everything[0], expected_scores, atol=1e-6)


@pytest.mark.parametrize("kept", [1, 5, 12, 200])
def test_few_kept_rows_are_answered_exactly(kept, data, tmp_path):
    keys, vectors, queries = data
    ours, _ = lists(data, tmp_path, "IVF{nlist},PQ16x4fs", 4, dead=keys[:1], vectors=Whole(keys, vectors))
    chosen = np.r_[keys[1 : kept + 1], keys[:1]]  # and one that is dead
    _, found = ours.search(queries, 10, 1, allowed_keys=chosen, rescore=10)
    assert found.tolist() == best(queries @ vectors[1 : kept + 1].T, keys[1 : kept + 1], 10)[1]


def test_every_finite_float16_is_widened_to_the_last_bit():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert np.array_equal(
        float16_to_float32(halves[None]).view(np.uint32), halves[None].astype(np.float32).view(np.uint32)
    )


def test_no_vectors_to_rescore_with(data, tmp_path):
    ours, _ = lists(data, tmp_path, "IVF{nlist},SQ8", 1)
    with pytest.raises(ValueError, match="rescore is 30, but this index keeps no whole vectors; ask with rescore 0"):
        ours.search(data[2], 10, 5, rescore=30)
