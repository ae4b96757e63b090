"""`Searcher`: the searcher of the index of a plan, with the model and extractors of its vectors."""

from index.search import HotReloader, Index
from pipeline.origin import read_origin
from pipeline.plans.plan import Plan
from pipeline.search.encode import QueryEncoder
from pipeline.search.encoder_pool import EncoderPool, make_plan_pool
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.stored_images import StoredImages
from pipeline.workspace import Workspace


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

    plan: Plan

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
        source = "a region store" if plan.regions_store else "a region file" if plan.regions_file else None
        image_root = plan.dataset.images if plan.dataset else workspace.dataset / "images"
        super().__init__(index, encoder, stored_images, image_root, source)

    def with_version(self, version: int | None = None) -> "Searcher":
        """Open another version of the index, the published one if None, with the models that are loaded already."""
        return Searcher(self.plan, version, self._pool)


def _open_stored_images(plan: Plan, name: str) -> StoredImages | None:
    try:
        return StoredImages(plan, name)
    except FileNotFoundError:  # an index needs no features to be searched
        return None


def open_searchers(plan: Plan) -> HotReloader[IndexSearcher]:
    """Open the published version of the index of a plan, and follow what is published later.

    All versions share the models and extractors. The first ones are loaded now, so that no query waits for them.

    Raises:
        FileNotFoundError: No index is published, or the model is missing.
        ValueError: The model does not fit to the index.
    """
    pool = make_plan_pool(plan, is_resident=True)
    root = Workspace(plan.workspace).index
    return load_served_models(HotReloader(root, lambda version: Searcher(plan, version, pool)))


def load_served_models(searchers: HotReloader[IndexSearcher]) -> HotReloader[IndexSearcher]:
    """Load what the first text query of the served version needs; return the searchers."""
    with searchers.borrow() as searcher:
        searcher.load_models()
    return searchers
