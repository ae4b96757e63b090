"""Searchers of an index that no plan made, or that was copied to another machine: the index and a model are enough."""

import threading
from pathlib import Path

from index.search import HotReloader, Index
from pipeline.origin import Origin, read_origin
from pipeline.plans import open_package, read_region_config
from pipeline.search.encode import QueryEncoder
from pipeline.search.encoder_pool import EncoderPool
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.searcher import load_served_models
from tern.card import MODEL_CARD, is_package, read_package
from tern.query import read_query_record

MODELS = "models"  # folder of the models beside the index, in a workspace


def open_index_searcher(
    index: Path, model: str | None = None, images: Path | None = None, version: int | None = None
) -> IndexSearcher:
    """Open a version of an index without its plan.

    Args:
        index: Folder of the index.
        model: Model of its vectors: folder of a model or of a model package, name of a shipped package, or `owner/name`
            of the Hugging Face hub. None: the model in the workspace of the index.
        images: Folder that the paths of the images are relative to; None: the current folder.
        version: Version of the index; the published one if None.

    Raises:
        FileNotFoundError: There is no such index or model, or the model has no query side.
        ValueError: The model makes vectors of another size.
    """
    return _IndexFolder(index, model, images or Path()).open(version)


def open_index_searchers(
    index: Path, model: str | None = None, images: Path | None = None
) -> HotReloader[IndexSearcher]:
    """Open the published version of an index without its plan, and follow what is published later.

    All versions share the models and extractors. The first ones are loaded now, so that no query waits for them.

    Args:
        index: Folder of the index.
        model: As in `open_index_searcher`.
        images: Folder that the paths of the images are relative to; None: the searchers find no file of an image. The
            metadata of an index may come from somebody else, and the current folder has files that are for nobody.

    Raises:
        FileNotFoundError: As `open_index_searcher`.
        ValueError: As `open_index_searcher`.
    """
    folder = _IndexFolder(index, model, images, is_resident=True)
    return load_served_models(HotReloader(index, folder.open))


class _IndexFolder:
    """Opens versions of an index without a plan; they share models and extractors.

    Args:
        index: Folder of the index.
        model: As in `open_index_searcher`.
        images: Folder of the images; None if there is none.
        is_resident: As of `EncoderPool`.
    """

    def __init__(self, index: Path, model: str | None, images: Path | None, is_resident: bool = False) -> None:
        self._index, self._model, self._images, self._is_resident = index, model, images, is_resident
        self._lock = threading.Lock()
        self._pools: dict[Path, EncoderPool] = {}

    def open(self, version: int | None = None) -> IndexSearcher:
        """Open a version; the published one if None. The errors are those of `open_index_searcher`."""
        opened = Index.open(self._index, version)
        try:
            folder = _find_model(opened, self._index, self._model).resolve()
            _check_vectors(opened, folder)
            with self._lock:
                pool = self._pools.setdefault(folder, _make_pool(folder, self._is_resident))
            encoder = QueryEncoder(Origin(model=folder.name, regions="", tokens=""), pool)
        except BaseException:  # nothing else would release the version
            opened.close()
            raise
        return IndexSearcher(opened, encoder, None, self._images)


def _check_vectors(opened: Index, folder: Path) -> None:
    """Check that a model has a query side, and that its vectors have the size of those of the index."""
    record = read_query_record(folder)
    if record is None:
        raise FileNotFoundError(
            f"{folder} has no query side (query.json). Pass a package that this version of `tern model export` "
            "wrote, or run `tern train` in its workspace."
        )
    dim = opened.collection(opened.kinds[0]).manifest.dim
    if record.embed_dim != dim:
        raise ValueError(
            f"The model {folder} makes vectors of {record.embed_dim} numbers, but those of {opened.root} have {dim}. "
            "Pass the model of the index."
        )


def _make_pool(folder: Path, is_resident: bool) -> EncoderPool:
    # The folder of a model that was imported from a package has its config.json, but is none.
    is_model = (folder / MODEL_CARD).is_file()
    package = read_package(folder) if not is_model and is_package(folder) else None
    regions = None if package is None else read_region_config(package)
    recipe = None if package is None else package.extractors.regions.recipe
    return EncoderPool(folder.parent, None, regions, None, is_resident=is_resident, region_recipe=recipe)


def _find_model(opened: Index, index: Path, model: str | None) -> Path:
    if model is not None:
        return Path(model) if (Path(model) / MODEL_CARD).is_file() else open_package(model).folder
    try:
        folder = Path(index).absolute().parent / MODELS / read_origin(opened).model
    except ValueError:
        raise FileNotFoundError(
            f"The model of {index} is not known, because no plan made the index. Pass its model."
        ) from None
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}, the model of {index}, is not there. Pass a copy of it, or its package.")
    return folder
