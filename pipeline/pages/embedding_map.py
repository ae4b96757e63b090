"""Map of the vectors of a split in two dimensions, drawn in the report as an SVG image without scripts."""

from dataclasses import dataclass

import numpy as np

from data.datasets import Dataset
from data.text import printable
from pipeline.stages.evaluate import read_split_vectors
from pipeline.stages.results import VectorStores

MAX_IMAGES = 200  # drawn, with all of their captions: 1,200 points with their titles are 200 KB of the page
WIDTH, HEIGHT, MARGIN = 900, 560, 12  # pixels of the drawing


@dataclass(frozen=True)
class MapPoint:
    """An item of the map.

    Attributes:
        kind: image or caption
        x: pixels from the left
        y: pixels from the top
        title: text that is shown under the pointer
    """

    kind: str
    x: float
    y: float
    title: str


@dataclass(frozen=True)
class EmbeddingMap:
    """Images and captions by the first two principal components of their vectors.

    Attributes:
        points: captions, then images
        width: width of the drawing in pixels
        height: height in pixels
        num_images: images that are drawn
        total_images: images of the split with a vector
        explained: share of the variance that each of the two components has, in percent
    """

    points: tuple[MapPoint, ...]
    width: int
    height: int
    num_images: int
    total_images: int
    explained: tuple[float, float]


def make_embedding_map(vectors: VectorStores, dataset: Dataset, split: str) -> EmbeddingMap | None:
    """Make the map of the images of a split, taken at equal distances, and of their captions.

    Args:
        vectors: Vectors of the dataset.
        dataset: Valid dataset.
        split: Split to draw.

    Returns:
        The map; None if fewer than three items have a vector.
    """
    part = dataset.select_split(split)
    inputs = read_split_vectors(vectors, part)
    image_rows = np.flatnonzero(np.isfinite(inputs.images).all(axis=1))
    chosen = image_rows[:: max(1, -(-len(image_rows) // MAX_IMAGES))]
    names = {inputs.image_ids[row] for row in chosen.tolist()}
    is_chosen = np.array([name in names for name in inputs.caption_image_ids], bool)
    caption_rows = np.flatnonzero(is_chosen & np.isfinite(inputs.captions).all(axis=1))
    rows = np.concatenate([inputs.captions[caption_rows], inputs.images[chosen]])
    if len(rows) < 3:
        return None
    positions, explained = project_rows(rows)
    low, high = positions.min(axis=0), positions.max(axis=0)
    scaled = (positions - low) / np.maximum(high - low, 1e-12)  # (n, 2), 0 to 1
    places = MARGIN + scaled * (np.array([WIDTH, HEIGHT]) - 2 * MARGIN)
    titles = [("caption", f"{inputs.texts[row]} ({inputs.caption_image_ids[row]})") for row in caption_rows.tolist()]
    titles += [("image", inputs.image_ids[row]) for row in chosen.tolist()]
    points = tuple(
        MapPoint(kind, round(x, 1), round(y, 1), printable(title))
        for (kind, title), (x, y) in zip(titles, places.tolist(), strict=True)
    )
    return EmbeddingMap(points, WIDTH, HEIGHT, len(chosen), len(image_rows), explained)


def project_rows(rows: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Project vectors onto their first two principal components.

    Args:
        rows: (n, e) vectors, with n and e at least 2.

    Returns:
        (n, 2) coordinates, and the share of the variance of each component in percent. The largest coordinate of each
        component is positive, so that equal vectors give equal maps.
    """
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    values, axes = np.linalg.eigh(centered.T @ centered)  # ascending
    positions = centered @ axes[:, :-3:-1]  # (n, 2)
    extremes = positions[np.abs(positions).argmax(axis=0), [0, 1]]
    total = max(float(values.sum()), 1e-12)
    return positions * np.where(extremes < 0, -1, 1), (100 * float(values[-1]) / total, 100 * float(values[-2]) / total)
