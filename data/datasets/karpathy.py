"""Karpathy of `data`."""

from collections.abc import Iterator

from data.config import DatasetConfig
from data.datasets.entry import _Entry
from data.io.files import read_json


def _karpathy(config: DatasetConfig) -> Iterator[_Entry]:
    """Karpathy's splits: `restval` is training data (COCO); `filepath` is the folder of COCO's two image sets."""
    content = read_json(config.annotations)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{config.annotations} has no list `images`; is it a Karpathy JSON?")
    for number, record in enumerate(content["images"]):
        try:
            name, split = record["filename"], record["split"]
            texts = [s["raw"] if "raw" in s else " ".join(s["tokens"]) for s in record["sentences"]]
        except (KeyError, TypeError) as error:
            yield _Entry(f"images[{number}]", "", "train", problem=f"the record lacks {error}")
            continue
        relative = f"{record['filepath']}/{name}" if record.get("filepath") else name
        yield _Entry(name, relative, "train" if split == "restval" else split, texts)
