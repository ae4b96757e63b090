"""ShardedIVF with deleted rows, filters and rescoring, compared with one large FAISS index and with numpy."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from index.ivf.distance import float16_to_float32
from index.ivf.faiss_io import train_ivf, write_inverted_lists, write_trained_index
from index.ivf.sharded_ivf import ShardedIVF

ROWS, DIM, NLIST = 3000, 32, 24


class StoredVectors:
    """float16 vectors under sorted keys."""

    def __init__(self, keys: np.ndarray, vectors: np.ndarray):
        order = np.argsort(keys)
        self.keys, self.vectors = keys[order], vectors[order].astype(np.float16)

    def get(self, keys: np.ndarray) -> np.ndarray:
        positions = np.searchsorted(self.keys, keys)
        assert np.array_equal(self.keys[positions], keys)
        return self.vectors[positions]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((60, DIM))
    points = centers[rng.integers(0, 60, ROWS + 33)] + 0.7 * rng.standard_normal((ROWS + 33, DIM))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    keys = rng.choice(2**62, ROWS, replace=False).astype(np.int64)
    return keys, points[:ROWS], points[ROWS:]


def build(data, folder: Path, factory: str, shards: int, **options) -> tuple[ShardedIVF, faiss.IndexIVF]:
    """Build shards, and one large index with all rows."""
    keys, vectors, _ = data
    large = train_ivf(factory.replace("{nlist}", str(NLIST)), vectors, 0)
    write_trained_index(large, folder / "trained-index")
    files = [folder / f"{i}.lists" for i in range(shards)]
    for i, file in enumerate(files):
        selected = keys % shards == i
        write_inverted_lists(folder / "trained-index", file, [(keys[selected], vectors[selected])])
    large.add_with_ids(vectors, keys)
    return ShardedIVF(folder / "trained-index", files, **options), large


def sort_top_k(scores: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, list[list[int]]]:
    """Return the best k of (q, n) scores of (n,) keys by sorting all."""
    best = [sorted(zip(-line, keys.tolist(), strict=True))[:k] for line in scores]
    return np.array([[-score for score, _ in line] for line in best]), [[key for _, key in line] for line in best]


@pytest.mark.parametrize(
    "factory", ["IVF{nlist},SQfp16", "IVF{nlist},SQ8", "IVF{nlist},RaBitQfs", "IVF{nlist},PQ16x4fs"]
)
@pytest.mark.parametrize("shards", [1, 4, 16])
@pytest.mark.parametrize(("filtered", "with_deleted"), [(False, False), (True, False), (False, True), (True, True)])
def test_shards_equal_one_large_index(factory, shards, filtered, with_deleted, data, tmp_path):
    keys, _, queries = data
    deleted_keys = keys[::5] if with_deleted else None
    sharded, large = build(data, tmp_path, factory, shards, deleted_keys=deleted_keys)
    allowed = keys[::3] if filtered else keys
    live = np.setdiff1d(allowed, deleted_keys) if with_deleted else allowed
    assert sharded.ntotal == len(np.setdiff1d(keys, deleted_keys) if with_deleted else keys)
    scores, found_keys = sharded.search(queries, 10, 7, allowed_keys=allowed if filtered else None)
    parameters = faiss.SearchParametersIVF(nprobe=7, sel=faiss.IDSelectorBatch(live))
    expected_scores, expected_keys = large.search(queries, 10, params=parameters)
    assert np.array_equal(scores, expected_scores)
    for row_scores, one, other in zip(scores, found_keys, expected_keys, strict=True):
        above_last = row_scores > row_scores[-1]  # of rows with the score of the last one, any is correct
        assert set(one[above_last]) == set(other[above_last])
    assert np.isin(found_keys, live).all()


@pytest.mark.parametrize("factory", ["IVF{nlist},RaBitQfs", "IVF{nlist},PQ16x4fs"])
@pytest.mark.parametrize("shards", [1, 4])
def test_rescored_scores_are_of_uncompressed_vectors(factory, shards, data, tmp_path):
    keys, vectors, queries = data
    deleted_keys = keys[::5]
    sharded, large = build(
        data, tmp_path, factory, shards, deleted_keys=deleted_keys, vectors=StoredVectors(keys, vectors)
    )
    exact = queries @ vectors.T  # (q, n)
    position = {key: i for i, key in enumerate(keys.tolist())}
    scores, found_keys = sharded.search(queries, 10, 7, rescore=80)
    deleted_selector = faiss.IDSelectorBatch(deleted_keys)
    live_selector = faiss.IDSelectorNot(deleted_selector)
    _, candidates = large.search(queries, 80, params=faiss.SearchParametersIVF(nprobe=7, sel=live_selector))
    num_equal = 0
    for i, line in enumerate(candidates.tolist()):
        expected = sorted((key for key in line if key >= 0), key=lambda key, i=i: (-exact[i, position[key]], key))[:10]
        np.testing.assert_allclose(scores[i], [exact[i, position[key]] for key in found_keys[i].tolist()], atol=1e-6)
        num_equal += expected == found_keys[i].tolist()
    assert num_equal >= len(queries) - 1  # codes with the score of the 80th may admit another row
    is_live = ~np.isin(keys, deleted_keys)
    all_scores, all_keys = sharded.search(queries, 10, NLIST, rescore=ROWS)
    expected_scores, expected_keys = sort_top_k(exact[:, is_live], keys[is_live], 10)
    assert all_keys.tolist() == expected_keys
    np.testing.assert_allclose(all_scores, expected_scores, atol=1e-6)


@pytest.mark.parametrize("num_allowed", [1, 5, 12, 200])
def test_search_of_few_allowed_rows_is_exact(num_allowed, data, tmp_path):
    keys, vectors, queries = data
    stored = StoredVectors(keys, vectors)
    sharded, _ = build(data, tmp_path, "IVF{nlist},PQ16x4fs", 4, deleted_keys=keys[:1], vectors=stored)
    live = slice(1, num_allowed + 1)
    allowed_keys = np.r_[keys[live], keys[:1]]  # the last one is deleted
    _, found_keys = sharded.search(queries, 10, 1, allowed_keys=allowed_keys, rescore=10)
    assert found_keys.tolist() == sort_top_k(queries @ vectors[live].T, keys[live], 10)[1]


def test_float16_to_float32_is_exact_for_every_finite_value():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert np.array_equal(
        float16_to_float32(halves[None]).view(np.uint32), halves[None].astype(np.float32).view(np.uint32)
    )


def test_rescoring_requires_vectors(data, tmp_path):
    sharded, _ = build(data, tmp_path, "IVF{nlist},SQ8", 1)
    with pytest.raises(ValueError, match=r"rescore is 30, but this index has no uncompressed vectors\. Pass rescore=0"):
        sharded.search(data[2], 10, 5, rescore=30)
