"""NDCG and ROUGE-L against slow loops, and the authors' file of relevances against raw bytes."""

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
def test_common_subsequences_equal_the_table_at_any_length(asked, data):
    texts = data.draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=90), min_size=1, max_size=6))
    assert TokenizedReferences(texts).lcs(asked).tolist() == [slow_lcs(asked, text) for text in texts]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130])
def test_common_subsequences_at_the_border_of_a_word_of_bits(length):
    draw = random.Random(length)
    asked = draw.choices(WORDS, k=length)
    texts = [asked, asked[::-1], ["none"], *(draw.choices(WORDS, k=draw.randint(1, 130)) for _ in range(5))]
    assert TokenizedReferences(texts).lcs(asked).tolist() == [slow_lcs(asked, text) for text in texts]


def test_rouge_equals_a_slow_loop_over_every_pair():
    draw = random.Random(0)
    owners = [k for k in range(9) for _ in range(draw.randint(1, 5)) if k != 4]  # image 4 has no captions
    draw.shuffle(owners)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 70))).title() for _ in owners]
    found = np.concatenate(list(rouge_l(texts, texts, owners, 9)))
    for row, text in enumerate(texts):
        for image in range(9):
            own = [t for t, o in zip(texts, owners, strict=True) if o == image]
            assert found[row, image] == np.float32(slow_rouge(text, own) if own else 0)
        assert found[row, owners[row]] == 1


def test_rouge_by_blocks_known_answers_and_no_references():
    blocks = list(rouge_l(["the dog sat"] * 300, ["The dog", "a cat"], [1, 0], 2))
    assert [len(block) for block in blocks] == [256, 44]
    p, r = 2 / 3, 1.0
    assert blocks[1][3].tolist() == [0, np.float32(2.44 * p * r / (r + 1.44 * p))]
    assert np.concatenate(list(rouge_l(["a"], [], [], 2))).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="1 references, 1 owners for 2 images"):
        list(rouge_l(["a"], ["a"], [2], 2))


@pytest.mark.parametrize("images", [7, 80])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("block", [1, 64 * 2**20])
def test_ndcg_equals_a_slow_loop(monkeypatch, images, ties, block):
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block)
    seen, ids, told, owners = scene(images, images, ties)
    draw = np.random.default_rng(1)
    relevance = np.round(draw.random((len(told), images)), 1).astype(np.float32)
    relevance[draw.random(relevance.shape) < 0.2] = np.nan  # as SPICE gives, read as 0
    relevance[3] = np.nan  # nothing is relevant: 0, and it counts
    owners = [o if o != ids[2] else ids[3] for o in owners]  # image 2 has no captions: no query
    found = ndcg(seen, ids, told, owners, relevance)
    assert found == pytest.approx(slow_both(seen, ids, told, owners, relevance), abs=1e-6)


def test_memory_of_ndcg_does_not_grow_with_images_times_captions(monkeypatch, tmp_path):
    draw, ids = np.random.default_rng(0), [str(k) for k in range(600)]
    images, captions = (draw.normal(size=(k, 8)).astype(np.float32) for k in (600, 3000))
    relevances = np.memmap(tmp_path / "r", np.float32, "w+", shape=(3000, 600))  # in float64 14 MB
    relevances[:] = draw.random((3000, 600), np.float32)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 2**17)
    tracemalloc.start()
    found = ndcg(images, ids, captions, ids * 5, relevances)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < found["t2i_ndcg"] < 1
    assert peak < 3 * 2**20


def test_ndcg_of_a_fold_reads_its_rows_and_columns_only():
    seen, ids, told, owners = scene(8, 30, ties=False)
    relevance = np.random.default_rng(2).random((len(told), 30)).astype(np.float32)
    (i, c) = metrics.make_folds(ids, owners, 3)[1]
    part = (seen[i], [ids[k] for k in i], told[c], [owners[k] for k in c])
    elsewhere = np.full_like(relevance, -1)  # would be refused
    elsewhere[np.ix_(c, i)] = relevance[np.ix_(c, i)]
    assert ndcg(*part, elsewhere, c, i) == pytest.approx(slow_both(*part, relevance[np.ix_(c, i)]), abs=1e-6)


def test_a_perfect_ranking_scores_one_and_its_mirror_less():
    eye = np.eye(40, dtype=np.float32)
    near = 1 / (1 + np.abs(np.arange(40)[:, None] - np.arange(40)))
    ids = [f"{k:02}" for k in range(40)]
    assert ndcg(near, ids, eye, ids, near) == pytest.approx({"i2t_ndcg": 1, "t2i_ndcg": 1})
    assert ndcg(-near, ids, eye, ids, near)["t2i_ndcg"] < 0.5


def test_the_authors_file_is_bare_floats_and_comes_back(tmp_path):
    matrix = np.random.default_rng(0).random((10, 2)).astype(np.float32)
    path = write_relevances(tmp_path / "coco-test-spice.npy", (matrix[:7], matrix[7:]))
    assert path.read_bytes() == matrix.tobytes()
    theirs = np.memmap(tmp_path / "theirs.npy", dtype=np.float32, shape=(10, 2), mode="w+")  # as they write it
    theirs[:] = matrix
    theirs.flush()
    np.save(tmp_path / "real.npy", matrix)
    for name in (path.name, "theirs.npy", "real.npy"):
        assert np.array_equal(read_relevances(tmp_path / name, 10, 2), matrix)


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, FileNotFoundError, "no relevances there"),
        (b"\0" * 76, ValueError, "76 bytes.*80"),
        (np.zeros((2, 10), np.float32), ValueError, r"\(2, 10\)"),
        (np.zeros((10, 2), np.int64), ValueError, "int64"),
        (np.array([[{}, {}]] * 10), ValueError, "[Pp]ickle|object"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, content, error, says):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(error, match=says):
        read_relevances(path, 10, 2)


@pytest.mark.parametrize(
    ("relevance", "says"),
    [
        (np.full((2, 2), -1.0), "-1"),
        (np.full((2, 2), np.inf), "inf"),
        (np.zeros((1, 2)), r"\(1, 2\)"),
        (np.zeros(4), "2 x 2"),
    ],
)
def test_relevances_that_make_no_sense_are_refused(relevance, says):
    with pytest.raises(ValueError, match=says):
        ndcg(np.eye(2), ["a", "b"], np.eye(2), ["a", "b"], relevance)
