"""Hits of `pipeline`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Region:
    """A region of a hit that answers to the query: where it lies (pixels), what it was taken for, how well it fits."""

    box: tuple[float, float, float, float]
    label: str
    score: float


@dataclass(frozen=True)
class Hit:
    """A found image or caption: `score` is the cosine, `captions` those of the image."""

    id: str
    score: float
    path: Path
    captions: tuple[str, ...]
    regions: tuple[Region, ...] = ()
