"""The gate judges hits without and with reranking; the calibration fits the scores that a search returns."""

from dataclasses import replace

import numpy as np
import pytest

from index.building.build import build_index
from index.building.update import update_index
from index.collection import QueryLabels
from index.config import GateConfig
from index.quality.checks import GateQueries
from index.quality.gate import make_gate
from index.search.index import Index
from index.search.probabilities import compute_probabilities
from index.tuning.nprobe import split_queries
from index.versions.folder import read_version_manifest
from index.versions.switch import RejectedError
from tests.helpers.index_updates import CONFIG as base
from tests.helpers.index_updates import World
from tests.helpers.index_world import ALIGNMENT_WEIGHT, make_rows
from tests.reference.index import exact_ids, rerank_exactly, split_hits

RERANK = 20
CONFIG = base.model_copy(update={"rerank": RERANK})


@pytest.fixture(scope="module")
def world():
    return World()


def rerank(collection, queries):
    """Return the ids of the first 12 reranked hits, by a loop."""
    rows = make_rows(collection.vectors)
    return rerank_exactly(collection, queries, make_rows(queries), rows, ALIGNMENT_WEIGHT, RERANK, 12)[0]


@pytest.fixture(scope="module")
def arrays(world):
    """The collections with their vectors as arrays."""
    return {kind: replace(one, vectors=one.read(list(one.ids)), rows=None) for kind, one in world.collections().items()}


@pytest.fixture(scope="module")
def held_out(world, arrays):
    """Queries whose relevant item is the second reranked hit, or for each third query the last of twelve."""
    queries = {}
    for kind, collection in arrays.items():
        vectors = world.queries[kind]
        relevant = [[line[1 if i % 3 else 11]] for i, line in enumerate(rerank(collection, vectors))]
        queries[kind] = GateQueries(vectors, relevant, rows=make_rows(vectors))
    return queries


def test_gate_measures_success_without_and_with_reranking(world, arrays, held_out, tmp_path):
    build_index(CONFIG, world.inputs(), tmp_path, gate=make_gate(GateConfig(), held_out, world.collections(), CONFIG))
    verdict = read_version_manifest(tmp_path).gate
    for kind, collection in arrays.items():
        _, half = split_queries(held_out[kind].count, CONFIG.seed, CONFIG.tuning_queries)
        vectors = held_out[kind].vectors[half]
        lines = {"success@10": exact_ids(collection, vectors, 10), "reranked success@10": rerank(collection, vectors)}
        for name, ids in lines.items():
            pairs = zip(ids, half.tolist(), strict=True)
            share = np.mean([held_out[kind].relevant_ids[i][0] in line[:10] for line, i in pairs])
            assert verdict.checks[f"{kind} {name}"].value == pytest.approx(share, abs=0.05), "lists leave out few"
        assert verdict.checks[f"{kind} reranked success@10"].value != verdict.checks[f"{kind} success@10"].value
        assert verdict.checks[f"{kind} row vectors"].value == 1
        assert f"{kind} reranked success@10" not in verdict.not_checked


def test_gate_says_that_queries_without_row_vectors_are_not_reranked(world, held_out, tmp_path):
    queries = {"image": replace(held_out["image"], rows=None)}
    build_index(CONFIG, world.inputs(), tmp_path, gate=make_gate(GateConfig(), queries, world.collections(), CONFIG))
    verdict = read_version_manifest(tmp_path).gate
    assert "the queries have no row vectors" in verdict.not_checked["image reranked success@10"]
    assert "image reranked success@10" not in verdict.checks


def test_gate_rejects_exchanged_row_vectors_and_low_reranked_success(world, held_out, tmp_path):
    inputs = world.inputs()
    images = inputs.collections["image"]
    names = dict(zip(images.ids, [*images.ids[1:], images.ids[0]], strict=True))
    exchanged = replace(images, rows=lambda ids: images.rows([names[name] for name in ids]))
    wrong = replace(inputs, collections={**inputs.collections, "image": exchanged})
    gate = make_gate(GateConfig(), held_out, inputs.collections, CONFIG)
    with pytest.raises(RejectedError, match=r"image row vectors: 0 over 60") as error:
        build_index(CONFIG, wrong, tmp_path, gate=gate)
    assert error.value.verdict.checks["image alignment"].passed
    strict = make_gate(GateConfig(min_success=1.0), held_out, inputs.collections, CONFIG)
    with pytest.raises(RejectedError, match=r"image reranked success@10: 0\.\d+ over"):
        build_index(CONFIG, inputs, tmp_path, gate=strict)


def test_gate_accepts_sums_in_which_an_item_is_not_its_own_best(world, held_out, tmp_path):
    """The weights of TERAN: 0 for regions, and a constant for words; the alignment alone ranks."""
    inputs = world.inputs()
    collections = {kind: replace(one, rows=scale_weights(one.rows, kind)) for kind, one in inputs.collections.items()}
    summed = replace(inputs, collections=collections, alignment_weight=1.0)
    build_index(CONFIG, summed, tmp_path, gate=make_gate(GateConfig(min_success=0), {}, collections, CONFIG))
    checks = read_version_manifest(tmp_path).gate.checks
    assert [checks[f"{kind} row vectors"].value for kind in collections] == [1, 1]
    images = collections["image"]
    names = dict(zip(images.ids, [*images.ids[1:], images.ids[0]], strict=True))
    exchanged = replace(images, rows=lambda ids: images.rows([names[name] for name in ids]))
    wrong = replace(summed, collections={**collections, "image": exchanged})
    with pytest.raises(RejectedError, match="image row vectors: 0 over 60"):
        build_index(CONFIG, wrong, tmp_path, gate=make_gate(GateConfig(), {}, collections, CONFIG))


def scale_weights(read_rows, kind):
    def read(ids):
        rows = read_rows(ids)
        return replace(rows, weights=np.full_like(rows.weights, 0 if kind == "image" else 2**-5))

    return read


def test_calibration_fits_the_combined_scores_that_a_search_returns(world, arrays, tmp_path):
    queries = world.queries["image"]
    relevant = [[line[i % 2]] for i, line in enumerate(rerank(arrays["image"], queries))]
    inputs = replace(world.inputs(), labels={"image": QueryLabels(relevant_ids=relevant)})
    build_index(CONFIG, inputs, tmp_path)
    with Index.open(tmp_path) as index:
        calibration = index.manifest.collections["image"].calibration
        ids, scores = split_hits(index.search(queries, 10, nprobe=4, query_rows=make_rows(queries)))
    assert calibration.is_combined
    assert calibration.reliability.right_found == 1
    right = np.array([[name in names for name in line] for line, names in zip(ids, relevant, strict=True)])
    difference = compute_probabilities(calibration, scores).sum() - right.sum()
    assert abs(difference) / len(right) < 0.2, "the probabilities add up to the number of right hits"
    update_index(CONFIG.model_copy(update={"rerank": 0}), inputs, tmp_path)
    assert not read_version_manifest(tmp_path).collections["image"].calibration.is_combined, "fitted again"
