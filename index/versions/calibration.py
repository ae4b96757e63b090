"""Models of the calibration of a collection: the chance that a hit is right, and how well that agrees with queries."""

from pydantic import Field, model_validator

from index.config import QUERY_SOURCES, QuerySource
from index.versions.objects import ManifestModel


class MonotoneMap(ManifestModel):
    """Piecewise linear function that never falls; constant before its first and after its last point."""

    inputs: list[float] = Field(min_length=1)
    values: list[float] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_points(self) -> "MonotoneMap":
        if len(self.inputs) != len(self.values) or any(
            line != sorted(line) or not -1 <= line[0] <= line[-1] <= 1 for line in (self.inputs, self.values)
        ):
            raise ValueError("the points of a map must ascend from -1 to 1, one value per input")
        return self


class ReliabilityBin(ManifestModel):
    """Hits with nearly equal probabilities.

    Attributes:
        count: number of hits
        probability: mean of their probabilities
        right: share of them that is right
    """

    count: int = Field(ge=1)
    probability: float = Field(ge=0, le=1)
    right: float = Field(ge=0, le=1)


class Reliability(ManifestModel):
    """Agreement of probabilities with the share of right hits.

    Each half of the queries is judged by the maps of the other half; the probabilities are means over five halvings.

    Attributes:
        error: expected calibration error of all hits: the mean difference of probability and share over the bins
        first_error: the same of the first hits alone
        num_queries: number of queries
        right_found: share of the queries with a right hit among the first `depth`
        right_lost: share of all queries whose right hits are all below `min_probability`
        bins: hits by probability, in ten bins of equal width; empty ones are left out
    """

    error: float = Field(ge=0, le=1)
    first_error: float = Field(ge=0, le=1)
    num_queries: int = Field(ge=1)
    right_found: float = Field(ge=0, le=1)
    right_lost: float = Field(ge=0, le=1)
    bins: list[ReliabilityBin]


class ScoreCalibration(ManifestModel):
    """The chance that a hit of a collection is right, from its score and those of the other hits.

    With the scores s1 >= s2 >= ... of a query, hit i has the probability
    chance(answered(s1) exp(sharpness si) / sum over the first `depth` hits j of exp(sharpness sj)).

    Attributes:
        sharpness: factor of scores
        depth: number of first hits that share the chance
        answered: best score to the chance that the query is for something of the collection
        chance: product of both to the probability
        min_probability: hits below it are weak
        rows: number of live rows that the map was fitted for
        query_source: where the queries come from, a key of `QUERY_SOURCES`
        is_combined: whether the scores are combined scores of reranked hits, and not those of the global search
    """

    sharpness: float = Field(gt=0)
    depth: int = Field(ge=1)
    answered: MonotoneMap
    chance: MonotoneMap
    min_probability: float = Field(ge=0, le=1)
    rows: int = Field(ge=1)
    query_source: QuerySource
    is_combined: bool = False
    reliability: Reliability

    def describe(self) -> str:
        """Return error and queries in words."""
        found, source = self.reliability, QUERY_SOURCES[self.query_source]
        return (
            f"expected calibration error {found.error:.3f} of {found.num_queries:,} {source}; "
            f"hits below {self.min_probability:.1%} are weak"
        )
