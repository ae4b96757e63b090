"""What a version of an index holds and what it can be asked: for the start page of the service and for the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from index.metadata import describe_columns
from index.versions import find_publication_time
from pipeline.origin import read_origin
from pipeline.search.index_searcher import IndexSearcher

GRID = "grid"  # extractor whose regions are cells, whose borders say nothing


@dataclass(frozen=True)
class IndexContents:
    """What a version of an index holds, and what it can be asked.

    Attributes:
        version: number of the version
        published: when it was published, as ISO 8601 in UTC; None if the log of the index does not say it
        model: name of the model of its vectors; None if no plan made the index
        counts: number of items by kind: image, caption
        columns: columns that filters of images may name
        has_words: whether hits of a text say which words match which regions
        has_boxes: whether it is known where the regions are
        min_probability: hits of a text with a smaller chance of being right are weak; None without a calibration
    """

    version: int
    published: str | None
    model: str | None
    counts: Mapping[str, int]
    columns: tuple[str, ...]
    has_words: bool
    has_boxes: bool
    min_probability: float | None


def describe_contents(searcher: IndexSearcher) -> IndexContents:
    """Describe the version of an index that a searcher has open; this reads the metadata of all items."""
    index = searcher.index
    images = index.collection("image") if "image" in index.kinds else None
    captions = index.collection("caption").rows if "caption" in index.kinds else None
    columns = () if images is None else describe_columns(images.rows, captions, index.manifest.columns)
    calibration = None if images is None else images.manifest.calibration
    stored = searcher.stored_images
    return IndexContents(
        version=index.version,
        published=find_publication_time(index.root, index.version),
        model=_find_model(searcher),
        counts={kind: collection.counts.live for kind, collection in index.manifest.collections.items()},
        columns=tuple(column.name for column in columns),
        has_words=images is not None and images.row_vectors is not None,
        has_boxes=stored is not None and stored.store.recipe.get("extractor") != GRID,
        min_probability=calibration.min_probability if calibration else None,
    )


def _find_model(searcher: IndexSearcher) -> str | None:
    try:
        return read_origin(searcher.index).model
    except ValueError:
        return None
