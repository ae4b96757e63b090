"""Schema of `data`."""

from dataclasses import dataclass

from data.io.digests import digest


@dataclass(frozen=True)
class Field:
    """One column of a store: its dtype, and whether it has a value a row (a region, a token) or an item (an image)."""

    dtype: str
    per: str = "row"


REGION_FIELDS = {
    "features": Field("float16"),  # (rows, d)
    "boxes": Field("float32"),  # (rows, 4): x1 y1 x2 y2, pixels
    "class_ids": Field("int32"),  # (rows,): index into the recipe's `classes`; -1 is no class (the whole image, a cell)
    "scores": Field("float32"),  # (rows,): 0..1
    "attr_ids": Field("int32"),  # (rows,): index into the recipe's `attributes`; -1 where none was looked for
    "attr_scores": Field("float32"),  # (rows,): 0..1
    "size": Field("int32", per="item"),  # (items, 2): width, height, pixels
}
TOKEN_FIELDS = {
    "features": Field("float16"),  # (rows, d)
    "token_ids": Field("int32"),  # (rows,)
    "full_length": Field("int32", per="item"),  # (items,): rows of the sentence before it was cut
}
VECTOR_FIELDS = {"features": Field("float16")}  # (rows, e): one row an item, unit length
FEATURE_DTYPES = ("float16", "float32")  # float32 for features of others that must come out again bit for bit
FIELDS = {"regions": REGION_FIELDS, "tokens": TOKEN_FIELDS, "vectors": VECTOR_FIELDS}


@dataclass(frozen=True)
class Item:
    """What a store keeps rows of: an id, and the hash of the content they are made from."""

    id: str
    hash: str


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be made: its file name follows from its items. `made` names one that a killed run has finished."""

    items: tuple[Item, ...]
    existing_file: str = ""

    @property
    def file(self) -> str:
        """File name: the same items in the same order give the same name."""
        return self.existing_file or f"shard-{digest([[item.id, item.hash] for item in self.items])}.h5"


def split_into_shards(items: list[Item], items_per_shard: int) -> list[ShardPlan]:
    """The items, in their order, cut into shards."""
    return [ShardPlan(tuple(items[i : i + items_per_shard])) for i in range(0, len(items), items_per_shard)]
