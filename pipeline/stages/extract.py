"""Extraction stages: region features of images and token features of captions, into stores."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.config import RegionFileConfig
from data.datasets import Dataset
from data.exchange import RegionFile
from data.images import FileHashCache, is_content_hash
from data.io import sha256_text
from data.manifest import Item, ShardPlan, is_store, open_or_create_store, store_path
from data.store import CopyJob, ShardJob, Store, copy_shard, store_update, write_shard
from extractors.config import RegionsConfig, TextConfig
from extractors.regions import DEVICE_LOCK, extract_from_paths
from pipeline.plans.plan import Plan
from pipeline.stages.dataset import check_splits
from pipeline.stages.extractors import ExtractorConfig, get_extractor, get_recipe
from pipeline.stages.threads import one_torch_thread
from pipeline.workers import MapFn
from pipeline.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionJob(ShardJob):
    """One shard to extract. Picklable, so that any `map` function can run it in another process."""

    config: ExtractorConfig
    sources: tuple[Any, ...]
    """Path of each image, or text of each caption."""
    preload: str
    """Module of the extractor, imported once before worker processes are forked (see `process_pool`)."""

    @property
    def uses_gpu(self) -> bool:
        """Whether the jobs must run in threads of one process, because the GPU holds one copy of the detector."""
        return getattr(self.config, "device", "cpu") != "cpu"


def extract_regions(
    config: RegionsConfig | RegionFileConfig,
    dataset: Dataset,
    workspace: Workspace,
    images_per_shard: int,
    map_fn: MapFn = map,
    hash_map_fn: MapFn = map,
) -> Path:
    """Extract the region features of all images that are new or changed.

    An unreadable image becomes an invalid item of the store, with the reason. Images that the dataset no longer has
    are removed from the store. The rows of an image that was moved or copied are copied, not extracted.

    Args:
        config: Settings of the region extractor.
        dataset: All images that the store must hold.
        workspace: Workspace of the store.
        images_per_shard: Maximum number of images per new shard.
        map_fn: Runs the jobs of the shards: first those that extract, then those that copy.
        hash_map_fn: Runs the jobs that hash new and changed files.

    Returns:
        The folder of the store.

    Raises:
        ValueError: All images are invalid.
    """
    folder = open_or_create_store(workspace.stores, "regions", get_recipe(config))
    paths = {image.id: image.path for image in dataset.images}
    hashes = FileHashCache(workspace.root).get_hashes(paths.values(), map_fn=hash_map_fn)
    items = [Item(image_id, content_hash) for image_id, content_hash in zip(paths, hashes, strict=True)]
    # A file of regions has them by the name of the image, so that equal images may have other regions.
    is_copied = None if isinstance(config, RegionFileConfig) else is_content_hash
    with _store_update(folder, items, images_per_shard, is_copied) as plans:
        copied = [CopyJob(folder, plan) for plan in plans if plan.sources]
        jobs = _make_jobs(config, folder, [plan for plan in plans if not plan.sources], paths)
        list(map_fn(extract_region_shard, jobs))
        if copied:
            list(map_fn(copy_shard, copied))
    if copied:
        num_extracted, num_copied = (sum(job.num_items for job in part) for part in (jobs, copied))
        log.info(f"{folder.name}: {num_extracted:,} extracted, {num_copied:,} moved or copied")
    return folder


def extract_tokens(
    config: TextConfig, dataset: Dataset, workspace: Workspace, captions_per_shard: int, map_fn: MapFn = map
) -> Path:
    """Extract the token features of all captions that are new or changed, as `extract_regions` does for images.

    Args:
        config: Settings of the text extractor.
        captions_per_shard: Maximum number of captions per new shard. For the others see `extract_regions`.

    Returns:
        The folder of the store.
    """
    folder = open_or_create_store(workspace.stores, "tokens", get_recipe(config))
    texts = {caption.id: caption.text for caption in dataset.captions}
    items = [Item(caption_id, sha256_text(text)) for caption_id, text in texts.items()]
    with _store_update(folder, items, captions_per_shard) as plans:
        list(map_fn(extract_token_shard, _make_jobs(config, folder, plans, texts)))
    return folder


def log_existing(folder: Path, num_items: int, plans: Sequence[ShardPlan]) -> None:
    """Log how many items of a store an earlier run has finished, if it is some of them and not all."""
    num_missing = sum(len(plan.items) for plan in plans)
    if 0 < num_missing < num_items:
        log.info(f"{folder.name}: {num_items - num_missing:,} of {num_items:,} are done, {num_missing:,} to do")


def _make_jobs(
    config: ExtractorConfig, folder: Path, plans: Sequence[Any], source_by_id: Mapping[str, Any]
) -> list[ExtractionJob]:
    if not plans:
        return []
    module = type(get_extractor(config)).__module__
    return [
        ExtractionJob(folder, plan, config, tuple(source_by_id[item.id] for item in plan.items), module)
        for plan in plans
    ]


@contextmanager
def _store_update(
    folder: Path, items: Sequence[Item], items_per_shard: int, is_copied: Callable[[str], bool] | None = None
) -> Iterator[list[ShardPlan]]:
    """Update a store as `store_update` does, and raise an error if all items turned out to be invalid."""
    with store_update(folder, items, items_per_shard, is_copied) as plans:
        log_existing(folder, len(items), plans)
        yield plans
    store = Store(folder)
    if items and not len(store):
        name, reason = next(iter(store.invalid_items.items()))
        raise ValueError(
            f"None of {len(items):,} items could be extracted into {folder}. The first, {name}: {reason}. "
            "Check the dataset of the plan."
        )


def extract_region_shard(job: ExtractionJob) -> str:
    """Write one shard of a region store. Returns its file name."""
    get_extractor(job.config)
    with one_torch_thread():
        return write_shard(job.folder, job.plan, _iter_region_rows(job))


def _iter_region_rows(job: ExtractionJob) -> Iterator[dict[str, Any] | str]:
    """Yield the columns of each image, or the reason why the image is invalid."""
    extractor = get_extractor(job.config)
    if isinstance(extractor, RegionFile):
        yield from extractor.rows([item.id for item in job.plan.items])
        return
    extracted = extract_from_paths(extractor, job.sources, extractor.load)
    with closing(extracted):  # type: ignore[type-var]  # it is a generator, which has `close`
        for regions in extracted:
            yield regions if isinstance(regions, str) else vars(regions)


def extract_token_shard(job: ExtractionJob) -> str:
    """Write one shard of a token store. Returns its file name."""
    get_extractor(job.config)
    with one_torch_thread():
        return write_shard(job.folder, job.plan, _iter_token_rows(job))


def _iter_token_rows(job: ExtractionJob) -> Iterator[dict[str, Any]]:
    with DEVICE_LOCK:  # two jobs that share a GPU extract in turn
        extracted = get_extractor(job.config)(list(job.sources))
    yield from (vars(tokens) for tokens in extracted)


def check_region_store(folder: Path, dataset: Dataset) -> Path:
    """Check that an external region store has regions of a dataset. Returns its folder.

    Raises:
        FileNotFoundError: The folder is not a store.
        ValueError: It is a store of another kind, or it has no image of the dataset.
    """
    store = Store(folder)
    if store.kind != "regions":
        raise ValueError(f"{folder} holds {store.kind}. Set `regions_store` to the folder of a region store.")
    if not any(image.id in store for image in dataset.images):
        dataset_id, store_id = dataset.images[0].id, next(iter(store.ids), "nothing")
        raise ValueError(
            f"None of the {len(dataset.images):,} images of {dataset.name} is in the store {folder}. The store holds "
            f"{store_id!r}, the dataset {dataset_id!r}. Import again with another --id-template, such as "
            '"{id}.jpg".'
        )
    return folder


def find_plan_stores(plan: Plan) -> tuple[Path, Path]:
    """Return the folders of the region store and the token store of a plan, which need not exist."""
    stores = Workspace(plan.workspace).stores
    regions = plan.regions_store
    if regions is None:
        regions = store_path(stores, "regions", get_recipe(plan.regions_file or plan.regions))
    return regions, store_path(stores, "tokens", get_recipe(plan.text))


def open_store_or_none(folder: Path) -> Store | None:
    """Open a store; None if it does not exist yet."""
    return Store(folder) if is_store(folder) else None


def select_splits(dataset: Dataset, plan: Plan, splits: Sequence[str]) -> Dataset:
    """Select all items of some splits, and those items of the other splits that the stores already have.

    Extraction removes items that the dataset does not list, so the finished items of other splits stay listed.

    Args:
        dataset: All images and captions.
        plan: Plan of the stores.
        splits: Names of the splits to select.

    Raises:
        ValueError: The dataset has no split of this name.
    """
    check_splits(splits, dataset.count_images_by_split(), dataset.name)
    regions, tokens = (open_store_or_none(folder) or () for folder in find_plan_stores(plan))
    selected = {image.id for image in dataset.images if image.split in splits}
    images = tuple(image for image in dataset.images if image.id in selected or image.id in regions)
    listed = {image.id for image in images}
    captions = tuple(
        caption
        for caption in dataset.captions
        if caption.image_id in listed and (caption.image_id in selected or caption.id in tokens)
    )
    return replace(dataset, images=images, captions=captions)
