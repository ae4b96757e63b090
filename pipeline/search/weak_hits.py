"""Probabilities of hits, and the hits whose probability is too low to be shown with the others."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from index.search import Index, compute_probabilities
from index.versions import ScoreCalibration
from pipeline.search.hits import Answer
from pipeline.search.query import ImagePart, PhotoPart, SearchRequest, TextPart


def find_calibration(index: Index, request: SearchRequest, has_rows: bool) -> ScoreCalibration | None:
    """Find the calibration of the hits of a request.

    Probabilities are fitted to captions that search images, and to images that search captions. They are known for one
    text that searches images, and for one whole photo or image that searches captions. They are unknown with a filter:
    a hit competes with fewer others then, and the right one may be left out. They are also unknown where hits were
    reranked and the calibration is that of the global search, or the reverse.

    Args:
        index: The open version.
        request: The request.
        has_rows: Whether its query has row vectors, so that the hits are reranked where the version can do it.
    """
    query = request.query
    (part, *others) = query.parts
    if others or part.weight <= 0 or request.where is not None:
        return None
    if query.target == "image":
        is_fitted = isinstance(part, TextPart)
    else:
        is_fitted = isinstance(part, PhotoPart | ImagePart) and part.box is None
    manifest = index.collection(query.target).manifest
    found = manifest.calibration if is_fitted else None
    is_reranked = has_rows and manifest.alignment is not None and manifest.search.rerank > 0
    return found if found is not None and found.is_combined == is_reranked else None


def compute_hit_probabilities(calibration: ScoreCalibration | None, scores: Sequence[float]) -> list[float | None]:
    """Compute the probabilities of the hits of one query, from the first one on.

    Args:
        calibration: Calibration of the query; None: all are unknown.
        scores: Scores, highest first.
    """
    if calibration is None or not scores:
        return [None] * len(scores)
    return compute_probabilities(calibration, np.array([scores]))[0].tolist()


def set_weak_hits_apart(
    answer: Answer, calibration: ScoreCalibration | None, min_probability: float | None, offset: int = 0
) -> Answer:
    """Move the hits below a probability to `Answer.weak`, and say so if all hits of a query are below it.

    Args:
        answer: Hits with their probabilities, best first.
        calibration: Calibration of the query. If it is None, no hit is weak.
        min_probability: Smallest probability of the other hits, 0 to 1; None: that of the calibration.
        offset: Number of better hits that are not in the answer.

    Raises:
        ValueError: `min_probability` is not between 0 and 1.
    """
    if min_probability is not None and not 0 <= min_probability <= 1:
        raise ValueError(f"min_probability is {min_probability:g}. Pass a number from 0 to 1.")
    if calibration is None:
        note = "The probabilities of hits are unknown for this query, so that no hit is weak."
        return _add_note(answer, note) if min_probability else answer
    limit = calibration.min_probability if min_probability is None else min_probability
    weak = tuple(hit for hit in answer.hits if hit.probability is not None and hit.probability < limit)
    answer = replace(answer, hits=answer.hits[: len(answer.hits) - len(weak)], weak=weak)
    if answer.hits or not weak or offset:
        return answer
    return _add_note(answer, f"Nothing in the index matches the query with a probability of at least {limit:.1%}.")


def _add_note(answer: Answer, note: str) -> Answer:
    return replace(answer, note=f"{answer.note} {note}".strip())
