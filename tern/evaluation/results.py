"""Results of an evaluation as typed records, and the flat names under which files and tables show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from data.io import read_json, write_json

RANK_METRICS = ("r1", "r5", "r10", "medr", "meanr")
NDCG = "ndcg_"
FOLD = "fold_"
RERANKED = "reranked_"
CHANCE = "chance"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DirectionMetrics(_Record):
    """Metrics of one direction: images to captions, or captions to images."""

    r1: float
    """Recall@1 in percent."""
    r5: float
    """Recall@5 in percent."""
    r10: float
    """Recall@10 in percent."""
    medr: float
    """Median rank, from 1."""
    meanr: float
    """Mean rank, from 1."""
    ndcg: dict[str, float] = {}
    """NDCG@25, 0 to 1, by the method of the relevances: `rougeL`, `spice`."""


class RetrievalMetrics(_Record):
    """Metrics of both directions."""

    i2t: DirectionMetrics
    """Image to text."""
    t2i: DirectionMetrics
    """Text to image."""
    rsum: float
    """Sum of the six recalls, 0 to 600."""

    def flat(self) -> dict[str, float]:
        """Return the metrics by the names that files and tables use.

        The names are `i2t_r1` ... `t2i_meanr`, `rsum`, then `i2t_ndcg_rougeL`, `t2i_ndcg_rougeL` ...
        """
        directions = {"i2t": self.i2t, "t2i": self.t2i}
        values = {f"{name}_{key}": getattr(d, key) for name, d in directions.items() for key in RANK_METRICS}
        ndcg = {f"{name}_{NDCG}{method}": d.ndcg[method] for method in self.i2t.ndcg for name, d in directions.items()}
        return {**values, "rsum": self.rsum, **ndcg}

    @classmethod
    def from_flat(cls, values: Mapping[str, float]) -> RetrievalMetrics:
        """Build the metrics from what `flat` returns; other keys are ignored."""
        directions = {
            name: DirectionMetrics(
                **{key: values[f"{name}_{key}"] for key in RANK_METRICS},
                ndcg={
                    key.removeprefix(f"{name}_{NDCG}"): value
                    for key, value in values.items()
                    if key.startswith(f"{name}_{NDCG}")
                },
            )
            for name in ("i2t", "t2i")
        }
        return cls(**directions, rsum=values["rsum"])


class ChanceRecalls(_Record):
    """Expected recalls in percent of a random ranking of a split, and their sum."""

    t2i_r1: float
    t2i_r5: float
    t2i_r10: float
    i2t_r1: float
    i2t_r5: float
    i2t_r10: float
    rsum: float


class SplitEvaluation(_Record):
    """Evaluation of one split."""

    images: int
    """Images in the gallery."""
    captions: int
    """Captions of these images."""
    metrics: RetrievalMetrics
    """Metrics of the complete split."""
    folds: RetrievalMetrics | None = None
    """Means over the folds; None if the configuration has no folds."""
    reranked: RetrievalMetrics | None = None
    """Metrics of the complete split after reranking; None for a model without row vectors."""
    chance: ChanceRecalls | None = None
    """Level of chance of the complete split; None if it was not computed."""

    def flat(self) -> dict[str, Any]:
        """Return counts and metrics by the names that files use, without chance.

        Those of folds start with `fold_`, and those after reranking with `reranked_`.
        """
        values = {"images": self.images, "captions": self.captions, **self.metrics.flat()}
        for prefix, metrics in ((FOLD, self.folds), (RERANKED, self.reranked)):
            if metrics is not None:
                values |= {f"{prefix}{name}": value for name, value in metrics.flat().items()}
        return values

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> SplitEvaluation:
        """Build the evaluation from what `flat` returns, and from the object `chance` of a file."""
        folds, reranked = (
            {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
            for prefix in (FOLD, RERANKED)
        )
        return cls(
            images=values["images"],
            captions=values["captions"],
            metrics=RetrievalMetrics.from_flat(values),
            folds=RetrievalMetrics.from_flat(folds) if folds else None,
            reranked=RetrievalMetrics.from_flat(reranked) if reranked else None,
            chance=values.get(CHANCE),
        )


class Evaluation(_Record):
    """Evaluation of a model: the content of `metrics-*.json`."""

    splits: dict[str, SplitEvaluation]
    """Evaluation by name of the split."""


def write_evaluation(path: Path, evaluation: Evaluation) -> Path:
    """Write an evaluation as JSON, one object of flat names and of chance per split, and return the path."""
    return write_json(path, {name: split.flat() | _dump_chance(split) for name, split in evaluation.splits.items()})


def _dump_chance(split: SplitEvaluation) -> dict[str, dict[str, float]]:
    return {} if split.chance is None else {CHANCE: split.chance.model_dump()}


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation that `write_evaluation` wrote.

    Raises:
        ValueError: The file does not hold an evaluation.
    """
    try:
        return Evaluation(splits={name: SplitEvaluation.from_flat(split) for name, split in read_json(path).items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold an evaluation ({error}). Delete it and run `tern evaluate`.") from error
