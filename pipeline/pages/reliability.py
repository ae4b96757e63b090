"""Section of the report about probabilities of hits: reliability diagram, errors, and queries for what is absent."""

from collections.abc import Mapping
from dataclasses import dataclass

from data.demo import ABSENT_QUERIES
from index.config import QUERY_SOURCES
from index.versions import Manifest, ScoreCalibration
from pipeline.pages.cards import KIND_COLORS
from pipeline.pages.curves import to_svg_uri
from pipeline.search.query import MAX_QUERIES, make_text_query
from pipeline.search.searcher import Searcher


@dataclass(frozen=True)
class CalibrationRow:
    """The calibration of one collection, in the units of the report."""

    kind: str
    error: float
    first_error: float
    min_probability: float
    right_found: float
    right_lost: float
    queries: str
    """number and source of the queries"""


@dataclass(frozen=True)
class AbsentQuery:
    """A query for what no image shows.

    Attributes:
        text: the query
        probability: that of its first hit
        is_found_out: whether the search says that nothing matches
    """

    text: str
    probability: float
    is_found_out: bool


def list_calibrations(manifest: Manifest) -> dict[str, ScoreCalibration]:
    """List the calibrations of a version by kind."""
    found = {kind: collection.calibration for kind, collection in manifest.collections.items()}
    return {kind: calibration for kind, calibration in found.items() if calibration is not None}


def make_calibration_rows(calibrations: Mapping[str, ScoreCalibration]) -> list[CalibrationRow]:
    """Make one row per calibrated collection."""
    return [
        CalibrationRow(
            kind=kind,
            error=one.reliability.error,
            first_error=one.reliability.first_error,
            min_probability=one.min_probability,
            right_found=one.reliability.right_found,
            right_lost=one.reliability.right_lost,
            queries=f"{one.reliability.num_queries:,} {QUERY_SOURCES[one.query_source]}",
        )
        for kind, one in calibrations.items()
    ]


def plot_reliability(calibrations: Mapping[str, ScoreCalibration]) -> str:
    """Plot the share of right hits over their probability.

    Returns:
        Data URI of an SVG image; the area of a point grows with its number of hits.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for kind, calibration in calibrations.items():
        bins, color = calibration.reliability.bins, KIND_COLORS[kind]
        probabilities, shares = [one.probability for one in bins], [one.right for one in bins]
        total = sum(one.count for one in bins)
        axes.plot(probabilities, shares, color=color, linewidth=1, label=f"hits of {kind}s")
        axes.scatter(probabilities, shares, [10 + 400 * one.count / total for one in bins], color=color, alpha=0.6)
    axes.set(xlabel="probability of a hit", ylabel="share of right hits", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return to_svg_uri(figure)


def find_absent_queries(searcher: Searcher) -> list[AbsentQuery]:
    """Run the queries for what no scene of the demo dataset shows."""
    assert len(ABSENT_QUERIES) <= MAX_QUERIES, "one pass"
    answers = searcher.search([make_text_query(text) for text in ABSENT_QUERIES], k=1)
    return [
        AbsentQuery(text, (*answer.hits, *answer.weak)[0].probability or 0.0, not answer.hits)
        for text, answer in zip(ABSENT_QUERIES, answers, strict=True)
    ]
