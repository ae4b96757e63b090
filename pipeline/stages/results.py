"""Records that the stages return and pass on: paths of what was written, and the dataset that it belongs to."""

from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset, InvalidRecord


@dataclass(frozen=True)
class Features:
    """Region and token features of a dataset.

    Attributes:
        regions: Folder of the region store.
        tokens: Folder of the token store.
        dataset: Valid dataset: all images and captions with features. Later stages use it.
        input_dataset: Dataset that was extracted, with the images and captions that turned out to be invalid.
        invalid_records: Records, images and captions without features, with the reason.
    """

    regions: Path
    tokens: Path
    dataset: Dataset
    input_dataset: Dataset
    invalid_records: tuple[InvalidRecord, ...]


@dataclass(frozen=True)
class VectorStores:
    """The vector stores of one model.

    Attributes:
        images: Folder of the store with one vector per image.
        captions: Folder of the store with one vector per caption.
        image_rows: Folder of the store with the row vectors of images; None for a model without them.
        caption_rows: Folder of the store with the row vectors of captions, likewise.
        alignment_weight: As in `data.alignment.combine_scores`; not used without row vectors.
        rerank: Number of best hits that a search reranks with row vectors; 0 for none.
    """

    images: Path
    captions: Path
    image_rows: Path | None = None
    caption_rows: Path | None = None
    alignment_weight: float = 0.0
    rerank: int = 0


@dataclass(frozen=True, kw_only=True)
class Vectors(VectorStores):
    """Vector stores with the model and the features that they were computed from."""

    model: Path
    """Folder of the model."""
    features: Features
