"""`Searcher`: the searcher of the index of a plan; `open_index_searcher`: that of an index without a plan."""

import logging
from pathlib import Path

from index.search import HotReloader, Index
from pipeline.plans.plan import Plan
from pipeline.search.encode import QueryEncoder
from pipeline.search.encoder_pool import EncoderPool, make_plan_pool
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.stored_images import StoredImages
from pipeline.stages.origin import Origin, read_origin
from pipeline.workspace import Workspace
from tern.query import read_query_record

log = logging.getLogger(__name__)


class Searcher(IndexSearcher):
    """A version of the index of a plan, with the model and extractors of its vectors.

    Args:
        plan: The plan.
        version: Version of the index; the published one if None.
        pool: Loaded models and extractors of the plan, to share with other versions; None loads them for this one.

    Raises:
        FileNotFoundError: No index is published, or the model is missing.
        ValueError: The model does not fit to the index.
    """

    def __init__(self, plan: Plan, version: int | None = None, pool: EncoderPool | None = None) -> None:
        workspace = Workspace(plan.workspace)
        self.plan, self._pool = plan, pool or make_plan_pool(plan)
        index = Index.open(workspace.index, version)
        try:
            origin = read_origin(index)
            encoder = QueryEncoder(origin, self._pool)
            stored_images = _open_stored_images(plan, origin.regions)
        except BaseException:  # nothing else would release the version
            index.close()
            raise
        source = plan.regions_store or ("a region file" if plan.regions_file is not None else None)
        image_root = plan.dataset.images if plan.dataset else workspace.dataset / "images"
        super().__init__(index, encoder, stored_images, image_root, None if source is None else str(source))

    def with_version(self, version: int | None = None) -> "Searcher":
        """Open another version of the index, the published one if None, with the models that are loaded already."""
        return Searcher(self.plan, version, self._pool)


def _open_stored_images(plan: Plan, name: str) -> StoredImages | None:
    try:
        return StoredImages(plan, name)
    except FileNotFoundError:  # an index needs no features to be searched
        log.warning(f"The region store {name} is not there, so hits come without regions.")
        return None


def open_searchers(plan: Plan) -> HotReloader[Searcher]:
    """Open the published version of the index of a plan, and follow what is published later.

    All versions share the models and extractors. The first ones are loaded now, so that no query waits for them.

    Raises:
        FileNotFoundError: No index is published, or the model is missing.
        ValueError: The model does not fit to the index.
    """
    pool = make_plan_pool(plan, is_resident=True)
    searchers = HotReloader(Workspace(plan.workspace).index, lambda version: Searcher(plan, version, pool))
    with searchers.borrow() as searcher:
        searcher.load_models()
    return searchers


def open_index_searcher(
    index: Path, model: Path | None = None, images: Path | None = None, version: int | None = None
) -> IndexSearcher:
    """Open a version of an index with the folder of its model. New photos cannot be embedded: there is no extractor.

    Args:
        index: Folder of the index.
        model: Folder of the model of its vectors; None: the model that the index names, in the folder `models` beside
            the index.
        images: Folder that the paths of the images are relative to; None leaves them relative.
        version: Number of the version; the published one if None.

    Raises:
        FileNotFoundError: There is no index, or no model with a query side.
        ValueError: The index does not name its model, or the model has vectors of another size.
    """
    opened = Index.open(index, version)
    try:
        if model is None:
            origin = read_origin(opened)
            model = index.resolve().parent / "models" / origin.model
        else:
            origin = Origin(model=model.resolve().name, regions="", tokens="")
        _check_dim(opened, model)
        encoder = QueryEncoder(origin, EncoderPool(model.resolve().parent, None, None, None))
    except BaseException:  # nothing else would release the version
        opened.close()
        raise
    return IndexSearcher(opened, encoder, None, images)


def _check_dim(index: Index, model: Path) -> None:
    """Raise FileNotFoundError without a query side of the model, or ValueError if its vectors have another size."""
    record = read_query_record(model)
    if record is None:
        raise FileNotFoundError(
            f"{model} has no query side (query.json). Pass the folder of the model of the index (`--model FOLDER`); "
            "`tern index` writes its query side."
        )
    dim = index.collection(index.kinds[0]).manifest.dim
    if record.embed_dim != dim:
        raise ValueError(
            f"The model {model} has vectors of {record.embed_dim} numbers, those of the index {index.root} have {dim}. "
            "Pass the model of the index."
        )
