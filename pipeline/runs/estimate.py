"""Some splits of a dataset now, the others later; and what a run would do and cost, before it is done."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from data.demo import is_generated
from data.images import FileHashCache
from data.io import sha256_text
from data.manifest import open_or_create_store
from data.store import Store
from pipeline.plans.plan import Plan
from pipeline.runs.runner import PipelineRunner
from pipeline.runs.stage_log import seconds_per_item
from pipeline.stages.extract import get_extractor

SENTENCES = 5  # about a scene of the embedded dataset


@dataclass(frozen=True)
class Estimate:
    """What a stage of extraction has to do."""

    store: str
    num_existing: int  # items
    num_missing: int  # items, new or changed
    num_shards: int  # files to be written
    seconds: float | None  # by what an item took here before; None if no run says

    def row(self) -> dict[str, str | int]:
        """For a table."""
        cost = "unknown: no run here has extracted any" if self.seconds is None else f"{self.seconds:,.0f} s"
        return {
            "store": self.store,
            "there": self.num_existing,
            "to do": self.num_missing,
            "shards": self.num_shards,
            "cost": cost,
        }


def select_splits(dataset: Dataset, plan: Plan, splits: list[str]) -> Dataset:
    """The dataset with these splits, and of the others what the stores have already: nothing of theirs is dropped.

    Raises ValueError for a split that the dataset has not.
    """
    _known(splits, dataset.count_images_by_split(), dataset.name)
    regions, tokens = (Store(folder) for folder in open_plan_stores(plan))
    wanted = {image.id for image in dataset.images if image.split in splits}
    images = tuple(image for image in dataset.images if image.id in wanted or image.id in regions)
    kept = {image.id for image in images}
    captions = tuple(c for c in dataset.captions if c.image_id in kept and (c.image_id in wanted or c.id in tokens))
    return Dataset(dataset.name, dataset.root, images, captions, dataset.invalid_records)


def _known(splits: Iterable[str], there: Iterable[str], name: str) -> None:
    if unknown := sorted(set(splits) - set(there)):
        raise ValueError(f"{name} has no split {', '.join(unknown)}; it has {', '.join(there)}.")


def open_plan_stores(plan: Plan) -> tuple[Path, Path]:
    """Folders of the region and the token store of a plan; new ones are empty."""
    root = plan.workspace / "stores"
    if plan.regions_store is not None:
        regions = plan.regions_store
    else:
        regions = open_or_create_store(root, "regions", get_extractor(plan.regions_file or plan.regions).recipe)
    return regions, open_or_create_store(root, "tokens", get_extractor(plan.text).recipe)


def estimate_extraction(chain: PipelineRunner) -> list[Estimate]:
    """What extraction of the chain's dataset would do, and how long that would take; nothing is extracted.

    Nothing is said of regions that come from a store of the plan's own: none of them are made.
    """
    plan, dataset = chain.plan, chain.dataset
    regions, tokens = (Store(folder) for folder in open_plan_stores(plan))
    paths = {image.id: image.path for image in dataset.images}
    hashes = dict(zip(paths, FileHashCache(plan.workspace).get_hashes(paths.values()), strict=True))
    texts = {caption.id: sha256_text(caption.text) for caption in dataset.captions}
    told = [_of(chain, "token features", tokens, texts, plan.captions_per_shard)]
    if plan.regions_store is None:
        told.insert(0, _of(chain, "region features", regions, hashes, plan.images_per_shard))
    return told


def estimate_undrawn_demo(plan: Plan, splits: list[str] | None) -> list[Estimate]:
    """What extraction of the embedded dataset would do before its pictures are drawn: all of it; nothing is drawn.

    Empty if they are drawn, and for other datasets. Raises ValueError for a split that it has not.
    """
    if plan.demo is None or is_generated(plan.demo, plan.workspace / "dataset"):
        return []
    _known(splits or (), plan.demo.splits, "demo")
    images = sum(size for name, size in plan.demo.splits.items() if not splits or name in splits)
    told = []
    todo = ((images, plan.images_per_shard), (SENTENCES * images, plan.captions_per_shard))
    for stage, folder, (items, size) in zip(
        ("region features", "token features"), open_plan_stores(plan), todo, strict=True
    ):
        each = seconds_per_item(plan.workspace, stage, folder.name)
        told.append(Estimate(folder.name, 0, items, -(-items // size), None if each is None else each * items))
    return told if plan.regions_store is None else told[1:]


def _of(chain: PipelineRunner, stage: str, store: Store, wanted: dict[str, str], per_shard: int) -> Estimate:
    known = [name for name in wanted if name in store]
    same = {name for name, found in zip(known, store.content_hashes(known), strict=True) if found == wanted[name]}
    aside = {entry["id"] for entry in store.manifest["invalid_items"] if entry["hash"] == wanted.get(entry["id"])}
    to_do = len(set(wanted) - same - aside)
    each = seconds_per_item(chain.plan.workspace, stage, store.folder.name)
    seconds = None if each is None else each * to_do
    return Estimate(store.folder.name, len(same | aside), to_do, -(-to_do // per_shard), seconds)
