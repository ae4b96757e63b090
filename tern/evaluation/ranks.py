"""The rank of every query of an evaluation, by id: the content of `ranks-*.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from data.io import describe_other_version, read_json, write_json
from data.text import describe_validation_error
from tern.evaluation.usable import MISSED

RANKS_SCHEMA = 1  # of the file; raise it when its keys or their meaning change
DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}

Ranks = Mapping[str, int | None]
"""Rank of the best relevant item by the id of the query, from 1; None for a query without a usable vector."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SplitRanks(_Record):
    """Ranks of the queries of one split in both directions, as in `Ranks`."""

    t2i: dict[str, PositiveInt | None]
    """Rank of the image, by the id of the caption."""
    i2t: dict[str, PositiveInt | None]
    """Rank of the best of its captions, by the id of the image; an image without captions is not a query."""

    def get_direction(self, direction: str) -> Ranks:
        """Return the ranks of a key of `DIRECTIONS`."""
        return self.t2i if direction == "t2i" else self.i2t


class EvaluationRanks(_Record):
    """Ranks of all splits of an evaluation."""

    version: int = RANKS_SCHEMA
    splits: dict[str, SplitRanks]
    """Ranks by name of the split."""


def make_split_ranks(
    i2t: np.ndarray, t2i: np.ndarray, image_ids: Sequence[str], caption_ids: Sequence[str]
) -> SplitRanks:
    """Assign the ranks that `rank_usable` returns to the ids of the queries."""
    pairs = {"i2t": (image_ids, i2t.tolist()), "t2i": (caption_ids, t2i.tolist())}
    by_direction = {
        direction: {
            name: None if rank == MISSED else rank + 1
            for name, rank in zip(ids, ranks, strict=True)
            if rank >= 0 or rank == MISSED
        }
        for direction, (ids, ranks) in pairs.items()
    }
    return SplitRanks(**by_direction)


def write_ranks(path: Path, ranks: EvaluationRanks) -> Path:
    """Write the ranks as JSON, one query per line, and return the path."""
    return write_json(path, ranks.model_dump(mode="json"))


def read_ranks(path: Path) -> EvaluationRanks:
    """Read the ranks that `write_ranks` wrote.

    Raises:
        ValueError: The file does not hold ranks, or has another schema.
    """
    advice = "Run `tern evaluate` in its workspace, which writes it again if it is missing"
    content = read_json(path, advice)
    version = content.get("version") if isinstance(content, dict) else None
    if version is not None and version != RANKS_SCHEMA:
        raise ValueError(f"{describe_other_version(path, 'ranks schema', version, RANKS_SCHEMA)} {advice}.")
    try:
        return EvaluationRanks.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path} does not hold ranks: {describe_validation_error(error)}. {advice}.") from error


def is_hit(rank: int | None, k: int) -> bool:
    """Return whether a query with this rank finds a relevant item among its first k results."""
    return rank is not None and rank <= k
