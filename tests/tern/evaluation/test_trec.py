"""Files of TREC: other programs read the recall and the reciprocal rank of the evaluation from them."""

from urllib.parse import unquote

import numpy as np
import pytest

from tern.evaluation.metrics import rank_queries
from tern.evaluation.trec import RankedSide, encode_id, iter_rankings, make_descending, rank_row, write_qrels, write_run
from tern.evaluation.usable import MISSED, rank_usable
from tests.helpers.tern_world import scene

CUTOFFS = (1, 5, 10)
K = 100


def write_scene(folder, ties):
    """Files of a split with ties, ids with blanks, and vectors that cannot be used; and the metrics by our ranks."""
    images, names, captions, owners = scene(4, images=40, ties=ties)
    names, owners = ([f"my {name} 100%" for name in values] for values in (names, owners))
    caption_ids = [f"{owner}#{number}" for number, owner in enumerate(owners)]
    images[3], captions[[5, 9]] = np.nan, np.inf
    sides = RankedSide(names, names, images), RankedSide(caption_ids, owners, captions)
    pairs = list(zip(caption_ids, owners, strict=True))
    metrics = {}
    i2t, t2i = rank_usable(images, names, captions, owners)
    for direction, ranks in (("t2i", t2i), ("i2t", i2t)):
        write_qrels(folder / f"{direction}.qrels", pairs if direction == "t2i" else [pair[::-1] for pair in pairs])
        write_run(folder / f"{direction}.run", iter_rankings(*sides, direction, K), "our run")
        values = [None if rank == MISSED else int(rank) + 1 for rank in ranks if rank >= 0 or rank == MISSED]
        metrics[direction] = [sum(rank is not None and rank <= k for rank in values) / len(values) for k in CUTOFFS]
        metrics[direction].append(sum(1 / rank for rank in values if rank is not None and rank <= K) / len(values))
    return metrics


def read_columns(path):
    return [line.split(" ") for line in path.read_text().splitlines()]


def measure_as_trec_eval(folder, direction):
    """Success@k and reciprocal rank as trec_eval orders: by score in single precision, ties by id, last id first."""
    relevant, found = {}, {}
    for query, zero, item, relevance in read_columns(folder / f"{direction}.qrels"):
        assert (zero, relevance) == ("0", "1")
        relevant.setdefault(query, set()).add(item)
    for query, q0, item, rank, score, tag in read_columns(folder / f"{direction}.run"):
        assert (q0, tag) == ("Q0", "our%20run")
        found.setdefault(query, []).append((np.float32(score), item))
        assert int(rank) == len(found[query]) <= K
    ranks = []
    for query, items in relevant.items():
        order = [item for _, item in sorted(found.get(query, ()), reverse=True)]
        ranks.append(next((rank for rank, item in enumerate(order, 1) if item in items), None))
    recalls = [sum(rank is not None and rank <= k for rank in ranks) / len(ranks) for k in CUTOFFS]
    return [*recalls, sum(1 / rank for rank in ranks if rank) / len(ranks)]


def measure_with_ir_measures(folder, direction):
    ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is in the extra `dev`")
    measures = [*(ir_measures.Success @ k for k in CUTOFFS), ir_measures.RR]
    files = (
        ir_measures.read_trec_qrels(str(folder / f"{direction}.qrels")),
        ir_measures.read_trec_run(str(folder / f"{direction}.run")),
    )
    values = ir_measures.calc_aggregate(measures, *files)
    return [values[measure] for measure in measures]


def measure_with_ranx(folder, direction):
    ranx = pytest.importorskip("ranx", reason="ranx is in the extra `bench`")
    qrels = ranx.Qrels.from_file(str(folder / f"{direction}.qrels"), kind="trec")
    run = ranx.Run.from_file(str(folder / f"{direction}.run"), kind="trec")
    names = [*(f"hit_rate@{k}" for k in CUTOFFS), "mrr"]
    values = ranx.evaluate(qrels, run, names, make_comparable=True)
    return [float(values[name]) for name in names]


@pytest.mark.parametrize(
    "measure",
    [measure_as_trec_eval, measure_with_ir_measures, pytest.param(measure_with_ranx, marks=pytest.mark.slow)],
)
def test_other_programs_read_our_recall_and_reciprocal_rank(measure, tmp_path):
    for ties in (True, False):
        expected = write_scene(tmp_path, ties)
        for direction in ("t2i", "i2t"):
            assert measure(tmp_path, direction) == pytest.approx(expected[direction], abs=1e-9), (direction, ties)


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_rank_row_places_the_relevant_item_where_the_evaluation_does(k):
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.repeat(np.arange(20), 3))
    vectors = np.round(draw.normal(size=(60, 3)), 0).astype(np.float32)  # most scores tie
    queries = np.vstack([vectors[:20] + np.float32(4e-7), vectors[20:40]])
    expected = rank_queries(queries, labels[:40], vectors, labels)
    for query, label, rank in zip(queries, labels[:40], expected, strict=True):
        rows = rank_row(vectors @ query, labels, label, k)
        assert len(set(rows)) == len(rows) == min(k, 60)
        positions = np.flatnonzero(labels[rows] == label)
        assert positions[0] == rank if rank < k else not len(positions)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.25, -0.125], [500000, 250000, -125000]),
        ([0.5, 0.5, 0.5, 0.1], [500000, 499999, 499998, 100000]),
        ([0.5, 0.5000009, 0.4999995], [500000, 499999, 499998]),
        ([], []),
    ],
)
def test_written_scores_descend(scores, expected):
    assert make_descending(np.array(scores)).tolist() == expected


@pytest.mark.parametrize(
    "name", ["a b.jpg#0", "50%20", "tab\tline\n\u2028\u00a0\x1c\x85", "sch\u00f6n.jpg", "\x00\x7f"]
)
def test_encoded_ids_have_no_blanks_and_can_be_decoded(name):
    encoded = encode_id(name)
    assert encoded.split() == [encoded]
    assert unquote(encoded) == name
    assert encode_id("scene-00001.jpg#3") == "scene-00001.jpg#3"
