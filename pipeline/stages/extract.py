"""Extract of `pipeline`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.config import RegionFileConfig
from data.datasets import Dataset
from data.exchange import RegionFile
from data.images import FileHashCache, load_image
from data.io import sha256_text
from data.manifest import Item, open_or_create_store
from data.store import ShardJob, Store, store_update, write_shard
from extractors.config import RegionsConfig, TextConfig
from extractors.regions import DEVICE_LOCK, extract_from_paths
from extractors.registry import build_region_extractor
from extractors.text import TextExtractor
from pipeline.plans.plan import Plan
from pipeline.stages.results import MapFn
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class ExtractionJob(ShardJob):
    """One shard to extract: picklable, so that any `map` can carry it to any process."""

    config: RegionsConfig | RegionFileConfig | TextConfig
    sources: tuple[Any, ...]  # the path of each image, or the text of each caption
    preload: str  # the extractor's module: imported once, before worker processes are forked (see `process_pool`)

    @property
    def uses_gpu(self) -> bool:
        """Whether such jobs belong into threads of one process: a GPU holds one copy of the detector."""
        return getattr(self.config, "device", "cpu") != "cpu"


@lru_cache(maxsize=2)  # one of each kind: a process that makes many shards loads its weights once
def get_extractor(config: RegionsConfig | RegionFileConfig | TextConfig) -> Any:
    """The extractor of a config, made once."""
    kinds = {RegionFileConfig: RegionFile, TextConfig: TextExtractor}
    return kinds.get(type(config), build_region_extractor)(config)


def extract_regions(
    config: RegionsConfig | RegionFileConfig,
    dataset: Dataset,
    workspace: Path,
    images_per_shard: int,
    map_fn: MapFn = map,
) -> Path:
    """Region features of every image that is new or changed, into a store. Returns the store's folder.

    An image that cannot be read is set aside in the store's manifest with its reason, and the run goes on. One that the
    dataset no longer has is listed no longer.
    """
    extractor = get_extractor(config)
    folder = open_or_create_store(Workspace(workspace).stores, "regions", extractor.recipe)
    paths = {image.id: image.path for image in dataset.images}
    hashes = FileHashCache(workspace).get_hashes(paths.values())
    items = [Item(*pair) for pair in zip(paths, hashes, strict=True)]
    return _extract(extract_region_shard, config, folder, items, paths, images_per_shard, map_fn)


def extract_tokens(
    config: TextConfig, dataset: Dataset, workspace: Path, captions_per_shard: int, each: MapFn = map
) -> Path:
    """Token features of every caption that is new or changed, into a store. Returns the store's folder."""
    extractor = get_extractor(config)
    folder = open_or_create_store(Workspace(workspace).stores, "tokens", extractor.recipe)
    texts = {caption.id: caption.text for caption in dataset.captions}
    items = [Item(name, sha256_text(text)) for name, text in texts.items()]
    return _extract(extract_token_shard, config, folder, items, texts, captions_per_shard, each)


def _extract(
    function: Callable[[ExtractionJob], str],
    config: Any,
    folder: Path,
    items: list[Item],
    sources: dict[str, Any],
    per_shard: int,
    each: MapFn,
) -> Path:
    with store_update(folder, items, per_shard) as plans:
        module = type(get_extractor(config)).__module__
        jobs = [
            ExtractionJob(folder, plan, config, tuple(sources[item.id] for item in plan.items), module)
            for plan in plans
        ]
        list(each(function, jobs))
    if items and not len(store := Store(folder)):
        name, reason = next(iter(store.invalid_items.items()))
        raise ValueError(f"{folder}: none of {len(items)} items could be extracted; the first, {name}: {reason}")
    return folder


def extract_region_shard(job: ExtractionJob) -> str:
    """Make one shard of a region store; returns its file name."""
    return write_shard(job.folder, job.plan, _region_rows(job))


def _region_rows(job: ExtractionJob) -> Iterator[dict[str, Any] | str]:
    extractor = get_extractor(job.config)
    if isinstance(extractor, RegionFile):
        yield from extractor.rows([item.id for item in job.plan.items])
        return
    with closing(extract_from_paths(extractor, job.sources, load_image)) as found:
        for regions in found:
            yield regions if isinstance(regions, str) else vars(regions)


def extract_token_shard(job: ExtractionJob) -> str:
    """Make one shard of a token store; returns its file name."""

    def rows() -> Iterator[dict[str, Any]]:
        with DEVICE_LOCK:  # two shards that share a GPU take turns
            found = get_extractor(job.config)(list(job.sources))
        yield from (vars(tokens) for tokens in found)

    return write_shard(job.folder, job.plan, rows())


def check_region_store(folder: Path, dataset: Dataset) -> Path:
    """A region store that is there already, for the images of the dataset that are in it. Returns its folder.

    Raises FileNotFoundError if there is no store, ValueError if it is of another kind or none of the images is in it.
    """
    store = Store(folder)
    if store.kind != "regions":
        raise ValueError(f"{folder} holds {store.kind}: set `regions_store` to the folder of a region store.")
    if not any(image.id in store for image in dataset.images):
        ours, theirs = dataset.images[0].id, next(iter(store.ids), "nothing")
        raise ValueError(
            f"{folder}: none of the {len(dataset.images):,} images of {dataset.name} is in the store. It holds "
            f'{theirs!r}, the dataset {ours!r}: import again with another --ids, such as "{{id}}.jpg".'
        )
    return folder


def open_plan_stores(plan: Plan) -> tuple[Path, Path]:
    """Return the folders of the region store and the token store of a plan; new stores are created empty."""
    stores = Workspace(plan.workspace).stores
    if plan.regions_store is not None:
        regions = plan.regions_store
    else:
        extractor = get_extractor(plan.regions_file or plan.regions)
        regions = open_or_create_store(stores, "regions", extractor.recipe)
    return regions, open_or_create_store(stores, "tokens", get_extractor(plan.text).recipe)


def select_splits(dataset: Dataset, plan: Plan, splits: Sequence[str]) -> Dataset:
    """Select all items of some splits, and those items of the other splits that the stores already have.

    Extraction removes items that the dataset does not list, so the finished items of other splits stay listed.

    Raises:
        ValueError: The dataset has no split of this name.
    """
    check_splits(splits, dataset.count_images_by_split(), dataset.name)
    regions, tokens = (Store(folder) for folder in open_plan_stores(plan))
    selected = {image.id for image in dataset.images if image.split in splits}
    images = tuple(image for image in dataset.images if image.id in selected or image.id in regions)
    listed = {image.id for image in images}
    captions = tuple(
        caption
        for caption in dataset.captions
        if caption.image_id in listed and (caption.image_id in selected or caption.id in tokens)
    )
    return Dataset(dataset.name, dataset.root, images, captions, dataset.invalid_records)


def check_splits(splits: Iterable[str], known_splits: Iterable[str], dataset_name: str) -> None:
    """Raise ValueError if a split is not one of the known splits."""
    if unknown := sorted(set(splits) - set(known_splits)):
        raise ValueError(f"{dataset_name} has no split {', '.join(unknown)}; it has {', '.join(known_splits)}.")
