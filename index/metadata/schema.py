"""Metadata columns of an index: the row type, and the 64-bit key of a row."""

import hashlib
import json
from typing import NamedTuple


class Row(NamedTuple):
    """Metadata of one vector.

    Attributes:
        kind: image or caption
        text: text of a caption
        path: path of the image file, relative to the folder of images
        width: pixels
        height: pixels
        content_hash: hash of the content that the vector was computed from
        key: 64-bit id inside FAISS; None before the row is in an index
        columns: values of the columns of the user's own as JSON (`data.io.columns`); not a part of the key
    """

    kind: str
    id: str
    image_id: str | None = None
    text: str | None = None
    path: str | None = None
    split: str | None = None
    width: int | None = None
    height: int | None = None
    content_hash: str | None = None
    key: int | None = None
    columns: str | None = None


COLUMNS = ("key", *(name for name in Row._fields if name != "key"))  # in the order of files: key first
NUMBERS = frozenset(("key", "width", "height"))
CONTENT_COLUMNS = COLUMNS[1:-1]  # in the order of `Row`; the key is their hash


def compute_key(row: Row) -> int:
    """Return the 64-bit key of a row: the low 63 bits of the SHA-256 of `CONTENT_COLUMNS`.

    They are hashed as sorted JSON without nulls. An item with a changed row (text, path, content hash) gets
    another key, so one key never stands for two contents, in any version.
    """
    values = {name: value for name, value in zip(CONTENT_COLUMNS, row, strict=False) if value is not None}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[-8:], "big") & (2**63 - 1)  # FAISS ids are signed, and -1 means "none"
