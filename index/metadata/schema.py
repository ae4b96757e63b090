"""Schema of `index`."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),  # the id inside faiss
        pa.field("kind", pa.string(), nullable=False),  # image or caption
        pa.field("id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("path", pa.string()),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),  # pixels
        pa.field("height", pa.int32()),  # pixels
        pa.field("content_hash", pa.string()),  # hash of the content that the vector was made from
    ]
)
COLUMNS = tuple(SCHEMA.names)


def compute_key(row: Mapping[str, Any]) -> int:
    """The 64-bit id of a row: the low 63 bits of SHA-256 over its columns but the key, as sorted JSON, nulls left out.

    An item whose row changes (its text, its place, the hash of its content) is another item to faiss, so a key never
    stands for two contents, in any version.
    """
    said = {name: value for name, value in row.items() if name != "key" and value is not None}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[-8:], "big") & (2**63 - 1)  # faiss ids are signed, and -1 means "none"
