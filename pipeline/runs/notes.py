"""Notes about figures that are missing or mean little: no captions, recalls near chance."""

from data.datasets import Dataset
from tern.card import ModelCard
from tern.evaluation import Evaluation, is_near_chance

DIRECTION_LABELS = {"t2i": "text to image", "i2t": "image to text"}


def describe_chance(evaluation: Evaluation) -> list[str]:
    """Describe, per split, the number of items and the level of chance, and name the recalls that are near it."""
    notes = []
    for split, result in evaluation.splits.items():
        if result.chance is None:
            continue
        chance = result.chance.model_dump()
        levels = "; ".join(
            f"{label} R@1 {chance[f'{key}_r1']:.1f}, R@5 {chance[f'{key}_r5']:.1f}, R@10 {chance[f'{key}_r10']:.1f}"
            for key, label in DIRECTION_LABELS.items()
        )
        notes.append(
            f"{split}: {result.images:,} images, {result.captions:,} captions. Chance: {levels}; rsum "
            f"{chance['rsum']:.1f}."
        )
        metrics = result.metrics.flat()
        near = {
            label: [
                k for k in (1, 5, 10) if is_near_chance(metrics[f"{key}_r{k}"], chance[f"{key}_r{k}"], result.images)
            ]
            for key, label in DIRECTION_LABELS.items()
        }
        names = "; ".join(
            f"{label} {', '.join(f'R@{k}' for k in cutoffs)}" for label, cutoffs in near.items() if cutoffs
        )
        if names:
            notes.append(f"{split}: too few images ({result.images:,}) to tell these from chance: {names}.")
    return notes


def describe_missing_captions(dataset: Dataset, evaluation: Evaluation) -> list[str]:
    """Return a note if captions are missing, so that there are no metrics."""
    if evaluation.splits:
        return []
    if dataset.captions:
        return [
            "No image of val or test has a caption, so there are no metrics. Assign images with captions to these "
            "splits with a field `split` in the annotations."
        ]
    return [
        "The dataset has no captions, so there are no metrics and no photo queries. Text queries work. Add captions to "
        "measure recall."
    ]


def describe_splits(dataset: Dataset) -> list[str]:
    """Return a note about the splits if some of them were drawn; without captions they have no effect."""
    if not dataset.num_drawn or not dataset.captions:
        return []
    counts = ", ".join(f"{count:,} {name}" for name, count in dataset.count_images_by_split().items())
    return [
        f"The split of {dataset.num_drawn:,} images was chosen by a hash of their content, because they name none. "
        f"The dataset has {counts} images."
    ]


def describe_training(card: ModelCard) -> list[str]:
    """Return a note if the first of several epochs is the best."""
    if card.config is None or card.epoch != 1 or card.config.epochs == 1:
        return []
    return [
        f"The best of {card.config.epochs} epochs is the first: training did not improve the model on val. Check the "
        "captions and the regions, use more images, or lower train.lr."
    ]
