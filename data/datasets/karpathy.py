"""Reader of Karpathy's JSON files: Flickr8k, Flickr30k, COCO."""

from collections.abc import Iterator

from data.config import DatasetConfig
from data.datasets.entry import Entry, make_invalid_entry
from data.io.files import read_json


def read_karpathy(config: DatasetConfig) -> Iterator[Entry]:
    """Read a Karpathy JSON file.

    The split `restval` (COCO) becomes `train`. The key `filepath` (COCO) is the folder of an image.

    Raises:
        ValueError: The file has no list `images`.
    """
    content = read_json(config.annotations)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{config.annotations} has no list `images`. Set `annotations` to a Karpathy JSON file.")
    for number, record in enumerate(content["images"]):
        try:
            name, split = record["filename"], record["split"]
            texts = [s["raw"] if "raw" in s else " ".join(s["tokens"]) for s in record["sentences"]]
        except (KeyError, TypeError) as error:
            yield make_invalid_entry(f"images[{number}]", f"the record lacks {error}")
            continue
        relative = f"{record['filepath']}/{name}" if record.get("filepath") else name
        yield Entry(name, relative, "train" if split == "restval" else split, texts)
