"""NDCG and ROUGE-L against slow loops, and files of relevances against raw bytes."""

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tern.evaluation import metrics
from tern.evaluation.ndcg import ndcg, read_relevances, write_relevances
from tern.evaluation.rouge import TokenizedReferences, rouge_l
from tests.helpers.tern_world import scene
from tests.reference.ndcg import slow_both
from tests.reference.rouge import slow_lcs, slow_rouge

WORDS = ["a", "dog", "on", "the", "grass", "two", "men", ".", ""]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=90), st.data())
@settings(max_examples=60, deadline=None)
def test_lcs_equals_the_table_at_any_length(words, data):
    texts = data.draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=90), min_size=1, max_size=6))
    assert TokenizedReferences(texts).lcs(words).tolist() == [slow_lcs(words, text) for text in texts]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130])
def test_lcs_equals_the_table_near_64_words(length):
    draw = random.Random(length)
    words = draw.choices(WORDS, k=length)
    texts = [words, words[::-1], ["none"], *(draw.choices(WORDS, k=draw.randint(1, 130)) for _ in range(5))]
    assert TokenizedReferences(texts).lcs(words).tolist() == [slow_lcs(words, text) for text in texts]


def test_rouge_l_equals_a_slow_loop_over_all_pairs():
    draw = random.Random(0)
    owners = [k for k in range(9) for _ in range(draw.randint(1, 5)) if k != 4]  # image 4 has no captions
    draw.shuffle(owners)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 70))).title() for _ in owners]
    relevances = np.concatenate(list(rouge_l(texts, texts, owners, 9)))
    for row, text in enumerate(texts):
        for image in range(9):
            references = [t for t, o in zip(texts, owners, strict=True) if o == image]
            assert relevances[row, image] == np.float32(slow_rouge(text, references) if references else 0)
        assert relevances[row, owners[row]] == 1


def test_rouge_l_yields_blocks_with_known_values_and_zeros_without_references():
    blocks = list(rouge_l(["the dog sat"] * 300, ["The dog", "a cat"], [1, 0], 2))
    assert [len(block) for block in blocks] == [256, 44]
    p, r = 2 / 3, 1.0
    assert blocks[1][3].tolist() == [0, np.float32(2.44 * p * r / (r + 1.44 * p))]
    assert np.concatenate(list(rouge_l(["a"], [], [], 2))).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="1 references and 1 columns for 2 images"):
        list(rouge_l(["a"], ["a"], [2], 2))


@pytest.mark.parametrize("images", [7, 80])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("block", [1, 64 * 2**20])
def test_ndcg_equals_a_slow_loop(monkeypatch, images, ties, block):
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block)
    image_vectors, ids, caption_vectors, owners = scene(images, images, ties)
    draw = np.random.default_rng(1)
    relevance = np.round(draw.random((len(caption_vectors), images)), 1).astype(np.float32)
    relevance[draw.random(relevance.shape) < 0.2] = np.nan  # SPICE gives NaN, which counts as 0
    relevance[3] = np.nan  # nothing is relevant: NDCG is 0 and counts in the mean
    owners = [o if o != ids[2] else ids[3] for o in owners]  # image 2 has no captions, so it is not a query
    data = image_vectors, ids, caption_vectors, owners, relevance
    assert ndcg(*data) == pytest.approx(slow_both(*data), abs=1e-6)


def test_ndcg_uses_constant_memory(monkeypatch, tmp_path):
    draw, ids = np.random.default_rng(0), [str(k) for k in range(600)]
    images, captions = (draw.normal(size=(k, 8)).astype(np.float32) for k in (600, 3000))
    relevances = np.memmap(tmp_path / "r", np.float32, "w+", shape=(3000, 600))  # in float64 14 MB
    relevances[:] = draw.random((3000, 600), np.float32)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 2**17)
    tracemalloc.start()
    values = ndcg(images, ids, captions, ids * 5, relevances)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < values["t2i_ndcg"] < 1
    assert peak < 3 * 2**20


def test_ndcg_of_a_fold_reads_only_its_rows_and_columns():
    image_vectors, ids, caption_vectors, owners = scene(8, 30, ties=False)
    relevance = np.random.default_rng(2).random((len(caption_vectors), 30)).astype(np.float32)
    (i, c) = metrics.make_folds(ids, owners, 3)[1]
    fold = (image_vectors[i], [ids[k] for k in i], caption_vectors[c], [owners[k] for k in c])
    fold_only = np.full_like(relevance, -1)  # -1 outside the fold would be rejected
    fold_only[np.ix_(c, i)] = relevance[np.ix_(c, i)]
    assert ndcg(*fold, fold_only, c, i) == pytest.approx(slow_both(*fold, relevance[np.ix_(c, i)]), abs=1e-6)


def test_ndcg_of_a_perfect_ranking_is_one():
    eye = np.eye(40, dtype=np.float32)
    near = 1 / (1 + np.abs(np.arange(40)[:, None] - np.arange(40)))
    ids = [f"{k:02}" for k in range(40)]
    assert ndcg(near, ids, eye, ids, near) == pytest.approx({"i2t_ndcg": 1, "t2i_ndcg": 1})
    assert ndcg(-near, ids, eye, ids, near)["t2i_ndcg"] < 0.5


def test_relevances_are_written_as_floats_without_header_and_read_back(tmp_path):
    matrix = np.random.default_rng(0).random((10, 2)).astype(np.float32)
    path = write_relevances(tmp_path / "coco-test-spice.npy", (matrix[:7], matrix[7:]))
    assert path.read_bytes() == matrix.tobytes()
    mapped = np.memmap(tmp_path / "mapped.npy", dtype=np.float32, shape=(10, 2), mode="w+")  # as the authors write it
    mapped[:] = matrix
    mapped.flush()
    np.save(tmp_path / "saved.npy", matrix)
    for name in (path.name, "mapped.npy", "saved.npy"):
        assert np.array_equal(read_relevances(tmp_path / name, 10, 2), matrix)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "file of relevances .* does not exist"),
        (b"\0" * 76, ValueError, "76 bytes.*80"),
        (np.zeros((2, 10), np.float32), ValueError, r"\(2, 10\)"),
        (np.zeros((10, 2), np.int64), ValueError, "int64"),
        (np.array([[{}, {}]] * 10), ValueError, "[Pp]ickle|object"),
    ],
)
def test_file_of_relevances_that_does_not_fit_is_rejected(tmp_path, content, error, message):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(error, match=message):
        read_relevances(path, 10, 2)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (np.full((2, 2), -1.0), "-1"),
        (np.full((2, 2), np.inf), "inf"),
        (np.zeros((1, 2)), r"\(1, 2\)"),
        (np.zeros(4), "2 x 2"),
    ],
)
def test_invalid_relevances_are_rejected(relevance, message):
    with pytest.raises(ValueError, match=message):
        ndcg(np.eye(2), ["a", "b"], np.eye(2), ["a", "b"], relevance)
