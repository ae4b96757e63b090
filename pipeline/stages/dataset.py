"""The dataset of a plan: loading it, its valid part, and its held-out splits."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data.config import DatasetConfig
from data.datasets import Dataset, load_dataset
from data.demo import ANNOTATIONS, generate_demo_dataset, is_generated
from data.images import FileHashCache
from data.store import Store
from pipeline.plans.plan import Plan
from pipeline.workers import DRAW_SCENES, HASH_IMAGES, MakeMapFn, use_builtin_map
from pipeline.workspace import Workspace

HELD_OUT = ("val", "test")
MIN_CAPTIONED = {"train": 2, "val": 1}
"""Minimum number of images with captions that a training needs, by split."""


def load_plan_dataset(plan: Plan, make_map_fn: MakeMapFn = use_builtin_map, save_hashes: bool = True) -> Dataset:
    """Load the dataset of a plan. The demo dataset is drawn first if its images do not exist yet.

    Args:
        plan: The plan.
        make_map_fn: Returns the map function that draws the scenes of the demo dataset, or that hashes images whose
            split is drawn.
        save_hashes: Whether hashes are written to the cache of the workspace.
    """
    if plan.dataset is not None:

        def get_hashes(paths: Sequence[Path]) -> list[str]:
            return FileHashCache(plan.workspace).get_hashes(paths, save_hashes, make_map_fn(HASH_IMAGES))

        return load_dataset(plan.dataset, get_hashes)
    assert plan.demo is not None, "a plan has either a dataset or a demo"
    folder = generate_demo_dataset(plan.demo, Workspace(plan.workspace).dataset, map_fn=make_map_fn(DRAW_SCENES))
    annotations = folder / ANNOTATIONS
    return load_dataset(DatasetConfig(name="demo", annotations=annotations, images=folder / "images"))


def read_plan_dataset(plan: Plan) -> Dataset:
    """Load the dataset of a plan. Nothing is written: the demo dataset is not drawn.

    Raises:
        FileNotFoundError: A file of the dataset does not exist, or the demo dataset is not drawn yet.
    """
    if plan.demo is not None and not is_generated(plan.demo, folder := Workspace(plan.workspace).dataset):
        raise FileNotFoundError(f"The images of the demo dataset are not in {folder}. Run `tern extract` first.")
    return load_plan_dataset(plan, save_hashes=False)


def select_valid(dataset: Dataset, regions: Path, tokens: Path) -> Dataset:
    """Select the valid dataset: all images that are in the region store, and their captions with tokens.

    Args:
        dataset: All images and captions.
        regions: Folder of the region store.
        tokens: Folder of the token store.
    """
    region_store = Store(regions)
    valid = dataset.exclude_images({image.id for image in dataset.images if image.id not in region_store})
    invalid_captions = set(Store(tokens).invalid_items)
    return replace(valid, captions=tuple(caption for caption in valid.captions if caption.id not in invalid_captions))


def check_splits(splits: Iterable[str], known_splits: Iterable[str], dataset_name: str) -> None:
    """Check that a dataset has some splits.

    Args:
        splits: Names to check.
        known_splits: Splits of the dataset.
        dataset_name: Name of the dataset, for the message.

    Raises:
        ValueError: A name is not one of the known splits.
    """
    if unknown := sorted(set(splits) - set(known_splits)):
        raise ValueError(
            f"{dataset_name} has no split {', '.join(unknown)}; it has {', '.join(known_splits)}. Choose one of them."
        )


def find_training_problem(dataset: Dataset) -> str:
    """Find why no model can be trained on a dataset; an empty text if one can."""
    if not dataset.captions:
        return (
            f"{dataset.name} has no captions, so that no model can be trained on it. Set `model = ...` in the plan to "
            "the folder of a trained model, or set `dataset.annotations` to a file with captions"
        )
    captions = dataset.captions_by_image_id
    counts = Counter(image.split for image in dataset.images if captions[image.id])
    missing = [f"{split!r} has {counts[split]}" for split, minimum in MIN_CAPTIONED.items() if counts[split] < minimum]
    if not missing:
        return ""
    return (
        f"{dataset.name} cannot train a model: it needs 2 images with captions in 'train' and 1 in 'val', but "
        f"{' and '.join(missing)}. Add captions, or assign images to the splits with a field `split` in the annotations"
    )


def check_trainable(dataset: Dataset) -> Dataset:
    """Return a dataset if a model can be trained on it.

    Raises:
        ValueError: `train` has fewer than two images with captions, or `val` has none.
    """
    if problem := find_training_problem(dataset):
        raise ValueError(f"{problem}.")
    return dataset


def splits_with_captions(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    """Select those splits that have images and captions, so that queries exist."""
    return [name for name in splits if name in dataset.count_images_by_split() and dataset.select_split(name).captions]


def held_out_ids(
    dataset: Dataset, images: Store, captions: Store, split: str
) -> tuple[list[str], list[str], list[str]]:
    """List the ids of one split that have vectors: images of one store, and their captions of the other one.

    Args:
        dataset: All images and captions.
        images: Store with the images to keep.
        split: Name of the split.

    Returns:
        The image ids, the caption ids, and for each caption the id of its image.
    """
    part = dataset.select_split(split)
    image_ids = [image.id for image in part.images if image.id in images]
    known_images = set(image_ids)
    known = [caption for caption in part.captions if caption.image_id in known_images and caption.id in captions]
    return image_ids, [caption.id for caption in known], [caption.image_id for caption in known]
