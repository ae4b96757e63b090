"""Dataset of `pipeline`."""

from dataclasses import replace
from pathlib import Path

from data.config import DatasetConfig
from data.datasets import Dataset, load_dataset
from data.demo import generate_demo_dataset
from data.store import Store
from pipeline.plans.plan import Plan
from pipeline.stages.results import MapFn
from pipeline.workspace import Workspace

HELD_OUT = ("val", "test")


def load_plan_dataset(plan: Plan, each: MapFn = map) -> Dataset:
    """The dataset of a plan; the demo's is drawn first if it is not there yet."""
    if plan.dataset is not None:
        return load_dataset(plan.dataset)
    folder = generate_demo_dataset(plan.demo, Workspace(plan.workspace).dataset, map_fn=each)
    annotations = folder / "dataset_demo.json"
    return load_dataset(DatasetConfig(name="demo", annotations=annotations, images=folder / "images"))


def select_valid(dataset: Dataset, regions: Path, tokens: Path) -> Dataset:
    """The dataset less the images and captions that no features are stored of: what later stages work on."""
    store = Store(regions)
    kept = dataset.exclude_images({image.id for image in dataset.images if image.id not in store})
    silent = set(Store(tokens).invalid_items)
    return replace(kept, captions=tuple(caption for caption in kept.captions if caption.id not in silent))


def splits_with_captions(dataset: Dataset, splits: tuple[str, ...]) -> list[str]:
    """Those of the splits in which something can be asked: they have images and captions."""
    return [name for name in splits if name in dataset.count_images_by_split() and dataset.select_split(name).captions]


def held_out_ids(dataset: Dataset, images: Store, split: str) -> tuple[list[str], list[str], list[str]]:
    """Image ids, caption ids and each caption's image id of one split, as far as there are vectors of them."""
    part = dataset.select_split(split)
    image_ids = [image.id for image in part.images if image.id in images]
    kept = set(image_ids)
    captions = [caption for caption in part.captions if caption.image_id in kept]
    return image_ids, [caption.id for caption in captions], [caption.image_id for caption in captions]
