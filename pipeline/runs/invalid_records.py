"""Records that could not be used: invalid records of the dataset, images without regions, captions without tokens."""

import json
from pathlib import Path

from data.datasets import Dataset, InvalidRecord
from data.exchange import find_missing_images
from data.io import write_text
from data.store import Store, count_truncated, count_unknown
from pipeline.stages.results import Features
from pipeline.workspace import Workspace


def list_invalid_records(
    dataset: Dataset, regions: Path, tokens: Path, is_external_store: bool = False
) -> tuple[InvalidRecord, ...]:
    """List everything of a dataset that has no features: first records, then images, then captions.

    Args:
        dataset: Dataset that was extracted.
        regions: Folder of the region store.
        tokens: Folder of the token store.
        is_external_store: Whether the plan names the region store (`regions_store`). Such a store may hold items of
            other datasets.
    """
    captions = Store(tokens).invalid_items
    reasons = _find_images_without_regions(dataset, Store(regions), is_external_store)
    reasons |= {name: reason for name, reason in captions.items() if name in dataset.captions_by_id}
    return (*dataset.invalid_records, *(InvalidRecord(name, reason) for name, reason in reasons.items()))


def _find_images_without_regions(dataset: Dataset, store: Store, is_external_store: bool) -> dict[str, str]:
    if is_external_store:
        return find_missing_images(store, [image.id for image in dataset.images])
    return {name: reason for name, reason in store.invalid_items.items() if name in dataset.images_by_id}


def write_invalid_records(features: Features, workspace: Workspace) -> Path:
    """Write the invalid records to `invalid_records.jsonl` in the workspace.

    Each line is one JSON object with name and reason.

    Returns:
        The path of the file. Without invalid records the file is empty.
    """
    lines = [json.dumps({"name": record.name, "reason": record.reason}) + "\n" for record in features.invalid_records]
    return write_text(workspace.invalid_records, "".join(lines))


def count_truncated_captions(features: Features) -> int:
    """Count the captions that have more than `text.max_tokens` tokens.

    They are stored without their last tokens.
    """
    store = Store(features.tokens)
    return count_truncated(store, [name for name in features.input_dataset.captions_by_id if name in store])


def count_unknown_captions(features: Features) -> int:
    """Count the captions of which the tokenizer knows nothing. They are trained on, and all have the same features."""
    store = Store(features.tokens)
    return count_unknown(store, [name for name in features.input_dataset.captions_by_id if name in store])
