"""Estimates of an extraction: how many items are missing, and how long they take. Nothing is extracted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from data.demo import CAPTIONS_PER_SCENE, is_generated
from data.images import FileHashCache, is_content_hash
from data.io import sha256_text
from pipeline.plans.plan import Plan
from pipeline.runs.stage_log import seconds_per_item
from pipeline.stages.extract import check_splits, find_plan_stores, open_store_or_none
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Estimate:
    """Work of one extraction stage."""

    store: str
    """Name of the store."""
    num_existing: int
    """Number of items that are already in the store."""
    num_missing: int
    """Number of items that will be computed, because they are new or changed."""
    num_shards: int
    """Number of shard files that will be written."""
    seconds: float | None
    """Seconds of the stage by the stage log, or None if no earlier run extracted an item of this store."""
    num_copied: int = 0
    """Number of images that were moved or copied, so that rows of the store are copied."""

    @property
    def has_work(self) -> bool:
        """Whether the stage has something to write."""
        return self.num_missing + self.num_copied > 0

    def row(self) -> dict[str, str | int]:
        """Return the estimate as a table row, by column name."""
        cost = "unknown: no run here has extracted any" if self.seconds is None else f"{self.seconds:,.0f} s"
        return {
            "store": self.store,
            "existing": self.num_existing,
            "missing": self.num_missing,
            "moved or copied": self.num_copied,
            "shards": self.num_shards,
            "cost": cost,
        }


def estimate_extraction(plan: Plan, dataset: Dataset) -> list[Estimate]:
    """Estimate the extraction of a dataset.

    Returns:
        The estimates of the region store and the token store; without the region store if the plan names an external
        one (`regions_store`), because no regions are extracted then.
    """
    regions, tokens = find_plan_stores(plan)
    paths = {image.id: image.path for image in dataset.images}
    hashes = dict(zip(paths, FileHashCache(plan.workspace).get_hashes(paths.values(), save=False), strict=True))
    texts = {caption.id: sha256_text(caption.text) for caption in dataset.captions}
    estimates = [_estimate_stage(plan, "token features", tokens, texts, plan.captions_per_shard)]
    if plan.regions_store is None:
        num_copied = 0 if plan.regions_file else _count_copied(regions, hashes)
        size = plan.images_per_shard
        estimates.insert(0, _estimate_stage(plan, "region features", regions, hashes, size, num_copied))
    return estimates


def estimate_undrawn_demo(plan: Plan, splits: Sequence[str] | None) -> list[Estimate]:
    """Estimate the extraction of the demo dataset before its images are drawn. Nothing is drawn.

    Args:
        plan: The plan.
        splits: Splits to extract; all if None or empty.

    Returns:
        The estimates; empty if the images are drawn already, and for other datasets.

    Raises:
        ValueError: The demo dataset has no split of this name.
    """
    workspace = Workspace(plan.workspace)
    if plan.demo is None or is_generated(plan.demo, workspace.dataset):
        return []
    check_splits(splits or (), plan.demo.splits, "demo")
    num_images = sum(size for name, size in plan.demo.splits.items() if not splits or name in splits)
    estimates = []
    stages = (
        ("region features", num_images, plan.images_per_shard),
        ("token features", CAPTIONS_PER_SCENE * num_images, plan.captions_per_shard),
    )
    for (stage, num_items, items_per_shard), folder in zip(stages, find_plan_stores(plan), strict=True):
        seconds = seconds_per_item(workspace, stage, folder.name)
        total = None if seconds is None else seconds * num_items
        estimates.append(Estimate(folder.name, 0, num_items, -(-num_items // items_per_shard), total))
    return estimates if plan.regions_store is None else estimates[1:]


def find_finished_items(folder: Path, hashes: Mapping[str, str]) -> set[str]:
    """Find the items that a store has, or knows to be invalid, with their current content.

    Args:
        folder: Folder of the store, which need not exist.
        hashes: Current content hash of each item by id.
    """
    if (store := open_store_or_none(folder)) is None:
        return set()
    stored = [name for name in hashes if name in store]
    pairs = zip(stored, store.content_hashes(stored), strict=True)
    unchanged = {name for name, stored_hash in pairs if stored_hash == hashes[name]}
    return unchanged | {item.id for item in store.manifest.invalid_items if item.hash == hashes.get(item.id)}


def _count_copied(folder: Path, hashes: Mapping[str, str]) -> int:
    """Count the missing images with the content of an image of the store or of another missing image."""
    store, finished = open_store_or_none(folder), find_finished_items(folder, hashes)
    known = set() if store is None else set(store.content_hashes(store.ids))
    missing = [value for name, value in hashes.items() if name not in finished and is_content_hash(value)]
    return len(missing) - len(set(missing) - known)


def _estimate_stage(
    plan: Plan, stage: str, folder: Path, hashes: dict[str, str], items_per_shard: int, num_copied: int = 0
) -> Estimate:
    """Estimate one stage. `hashes` has the current content hash of each item by id."""
    num_existing = len(find_finished_items(folder, hashes))
    num_missing = len(hashes) - num_existing - num_copied
    seconds = seconds_per_item(Workspace(plan.workspace), stage, folder.name)
    total = None if seconds is None else seconds * num_missing
    num_shards = sum(-(-count // items_per_shard) for count in (num_missing, num_copied))
    return Estimate(folder.name, num_existing, num_missing, num_shards, total, num_copied)
