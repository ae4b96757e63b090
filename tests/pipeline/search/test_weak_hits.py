"""Hits that are probably not right are apart, with a stub of an index and on a finished run."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from index.search import compute_probabilities
from index.tuning.calibrate import LabeledHits, fit_calibration
from pipeline.search import (
    Answer,
    Hit,
    ImagePart,
    PhotoPart,
    Query,
    Searcher,
    SearchRequest,
    TextPart,
    VectorPart,
    make_photo_query,
    make_text_query,
)
from pipeline.search.weak_hits import compute_hit_probabilities, find_calibration, set_weak_hits_apart

SCORES = np.tile([0.8, 0.5], (40, 1)) + np.linspace(0, 0.1, 40)[:, None]
CALIBRATION = fit_calibration(
    LabeledHits(SCORES, np.tile([True, False], (40, 1)), np.arange(40)[:, None] % 2), np.array([0.2]), "held-out", 2
)


def make_index(calibration, rerank=0, has_rows=False):
    search, alignment = SimpleNamespace(rerank=rerank), object() if has_rows else None
    manifest = SimpleNamespace(calibration=calibration, search=search, alignment=alignment)
    return SimpleNamespace(collection=lambda kind: SimpleNamespace(manifest=manifest))


HITS = tuple(Hit(name, 0.5, Path(name), (), probability=value) for name, value in (("a", 0.9), ("b", 0.3), ("c", 0.01)))


@pytest.mark.parametrize(
    ("query", "is_known"),
    [
        pytest.param(make_text_query("a dog"), True, id="text for images"),
        pytest.param(make_photo_query(b""), True, id="photo for captions"),
        pytest.param(Query((ImagePart("a"),), "caption"), True, id="image of the index for captions"),
        pytest.param(make_text_query("a dog", "caption"), False, id="text for captions"),
        pytest.param(Query((PhotoPart(b""),)), False, id="photo for images"),
        pytest.param(Query((PhotoPart(b"", (0, 0, 9, 9)),), "caption"), False, id="region for captions"),
        pytest.param(Query((VectorPart(np.ones(3)),)), False, id="vector"),
        pytest.param(Query((TextPart("a dog"), TextPart("a cat", -1))), False, id="two texts"),
        pytest.param(Query((TextPart("a dog", -1),)), False, id="text to avoid"),
    ],
)
def test_find_calibration_knows_what_was_fitted(query, is_known):
    index = make_index(CALIBRATION)
    assert (find_calibration(index, SearchRequest(query), False) is CALIBRATION) == is_known
    assert find_calibration(index, SearchRequest(query, where="width > 3"), False) is None, "among fewer hits"


@pytest.mark.parametrize("is_combined", [False, True])
@pytest.mark.parametrize(
    ("index", "query_has_rows", "is_reranked"),
    [((100, True), True, True), ((100, True), False, False), ((0, True), True, False), ((100, False), True, False)],
    ids=["reranked", "query without rows", "rerank = 0", "index without rows"],
)
def test_find_calibration_is_that_of_the_scores_of_the_hits(index, query_has_rows, is_reranked, is_combined):
    calibration = CALIBRATION.model_copy(update={"is_combined": is_combined})
    found = find_calibration(make_index(calibration, *index), SearchRequest(make_text_query("a dog")), query_has_rows)
    assert found is (calibration if is_combined == is_reranked else None)


@pytest.mark.parametrize(
    ("limit", "strong", "weak"),
    [
        pytest.param(0.0, "abc", "", id="none is weak"),
        pytest.param(0.3, "ab", "c", id="a hit at the limit is not weak"),
        pytest.param(0.31, "a", "bc", id="two"),
        pytest.param(1.0, "", "abc", id="all"),
    ],
)
def test_weak_hits_are_those_below_the_limit(limit, strong, weak):
    answer = set_weak_hits_apart(Answer(HITS, "Noted."), CALIBRATION, limit)
    assert ("".join(hit.id for hit in answer.hits), "".join(hit.id for hit in answer.weak)) == (strong, weak)
    nothing = " Nothing in the index matches the query with a probability of at least 100.0%."
    assert answer.note == "Noted." + ("" if strong else nothing)
    assert set_weak_hits_apart(Answer(HITS), CALIBRATION, limit, offset=3).note == "", "better hits came before"
    assert set_weak_hits_apart(Answer(()), CALIBRATION, limit) == Answer(())


def test_the_limit_of_the_version_is_the_default_and_unknown_probabilities_are_never_weak():
    fitted = replace_limit(0.2)
    assert [hit.id for hit in set_weak_hits_apart(Answer(HITS), fitted, None).weak] == ["c"]
    unknown = Answer(tuple(replace(hit, probability=None) for hit in HITS))
    assert set_weak_hits_apart(unknown, None, None) == unknown
    asked = set_weak_hits_apart(unknown, None, 0.5)
    assert (asked.hits, asked.weak) == (unknown.hits, ())
    assert "unknown for this query" in asked.note
    assert compute_hit_probabilities(None, [0.3, 0.1]) == [None, None]
    assert compute_hit_probabilities(CALIBRATION, []) == []
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"min_probability is .*\. Pass a number from 0 to 1\."):
            set_weak_hits_apart(Answer(HITS), CALIBRATION, wrong)


def replace_limit(limit):
    return CALIBRATION.model_copy(update={"min_probability": limit})


@pytest.mark.slow
def test_search_computes_the_probabilities_of_the_version(finished_pipeline):
    searcher = Searcher(finished_pipeline.plan)
    calibration = searcher.index.manifest.collections["image"].calibration
    assert calibration.rows == len(finished_pipeline.features.dataset.images)
    query = make_text_query("two dogs are running along the street")
    (whole,) = searcher.search([query], k=30, min_probability=0)
    expected = compute_probabilities(calibration, np.array([[hit.score for hit in whole.hits]]))[0]
    np.testing.assert_allclose([hit.probability for hit in whole.hits], expected, atol=1e-4)
    (page,) = searcher.search([query], k=2, offset=3, min_probability=1)
    assert [hit.id for hit in page.weak] == [hit.id for hit in whole.hits[3:5]]
    np.testing.assert_allclose([hit.probability for hit in page.weak], expected[3:5], atol=1e-4)
    (answer,) = searcher.search([query], k=30)
    limit = calibration.min_probability
    assert [hit.id for hit in answer.weak] == [hit.id for hit in whole.hits if hit.probability < limit]
    (captions,) = searcher.search([make_photo_query(whole.hits[0].path)], min_probability=0)
    assert searcher.index.manifest.collections["caption"].calibration is None, "fewer than 20 held-out images"
    assert [hit.probability for hit in captions.hits] == [None] * 10
    (near,) = searcher.search([Query((ImagePart(whole.hits[0].id),))])
    assert [hit.probability for hit in near.hits] == [None] * 10
    assert len(searcher.search_text("no words that any caption has", 7)) == 7, "weak hits included"
