"""Columns of each kind of store, the items that a store holds, and the plan of one shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.io.digests import digest

Kind = Literal["regions", "tokens", "vectors", "row_vectors"]
# float32: imported features stay equal bit for bit when they are exported. int8: row vectors.
FeatureDtype = Literal["float16", "float32", "int8"]

# A dict and not a model: an extractor adds keys of its own, and the digest of all of them names the store's folder.
Recipe = dict[str, Any]
"""Settings and hashes that determine the numbers of a store; values of JSON."""


@dataclass(frozen=True)
class Field:
    """A column of a store, with one value per row (a region, a token) or per item (an image)."""

    dtype: str
    per: Literal["row", "item"] = "row"


REGION_FIELDS = {
    "features": Field("float16"),  # (rows, d)
    "boxes": Field("float32"),  # (rows, 4): x1 y1 x2 y2, pixels
    "class_ids": Field("int32"),  # (rows,): index into the recipe's `classes`; -1 without a class (whole image, cell)
    "scores": Field("float32"),  # (rows,): 0 to 1
    "attr_ids": Field("int32"),  # (rows,): index into the recipe's `attributes`; -1 if none was predicted
    "attr_scores": Field("float32"),  # (rows,): 0 to 1
    "size": Field("int32", per="item"),  # (items, 2): width, height, pixels
}
TOKEN_FIELDS = {
    "features": Field("float16"),  # (rows, d)
    "token_ids": Field("int32"),  # (rows,)
    "full_length": Field("int32", per="item"),  # (items,): number of tokens before truncation
}
VECTOR_FIELDS = {"features": Field("float16")}  # (rows, e): one row per item, unit length
ROW_VECTOR_FIELDS = {
    "features": Field("int8"),  # (rows, k): unit vectors times 127, one row per region or token
    "weights": Field("float16"),  # (rows,): share of the row in the score; those of an item add up to 1
}
FIELDS: dict[Kind, dict[str, Field]] = {
    "regions": REGION_FIELDS,
    "tokens": TOKEN_FIELDS,
    "vectors": VECTOR_FIELDS,
    "row_vectors": ROW_VECTOR_FIELDS,
}


@dataclass(frozen=True, slots=True)  # a store may have millions of them
class Item:
    """What a store holds rows for: an id, and the hash of the content that the rows are computed from."""

    id: str
    hash: str


@dataclass(frozen=True, slots=True)
class RowSource:
    """An item of a shard in the same store, whose content is that of another item."""

    file: str
    """File name of the shard."""
    id: str


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write.

    Its file name follows from its items, unless `existing_file` names a finished shard.
    """

    items: tuple[Item, ...]
    existing_file: str = ""
    """File name of a shard that an interrupted run finished; empty for a shard that must be written."""
    sources: tuple[RowSource, ...] = ()
    """Where the rows of each item are copied from; empty if they must be computed. The shards may not exist yet, but
    are those of other plans then."""

    @property
    def file(self) -> str:
        """Return the file name: the same items in the same order give the same name."""
        return self.existing_file or f"shard-{digest([[item.id, item.hash] for item in self.items])}.h5"


def split_into_shards(
    items: Sequence[Item], items_per_shard: int, sources: Sequence[RowSource] = ()
) -> list[ShardPlan]:
    """Split items, in their order, into plans of at most `items_per_shard` items.

    Args:
        items: The items.
        items_per_shard: Maximum number of items per plan; at least 1.
        sources: Where the rows of each item are copied from; empty if they must be computed.
    """
    starts = range(0, len(items), items_per_shard)
    parts = [slice(start, start + items_per_shard) for start in starts]
    return [ShardPlan(tuple(items[part]), sources=tuple(sources[part])) for part in parts]
