"""A build rejects invalid input with a message that names the item and the next step, and publishes nothing."""

import numpy as np
import pytest

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import IndexConfig
from index.metadata.schema import Row
from tests.helpers.index_world import make, unit


def replace_fields(kind: str = "image", **changes):
    """Return a change that replaces fields of one collection by functions of the old collection."""

    def change(collections, queries):
        old = collections[kind]
        fields = {"ids": old.ids, "vectors": old.vectors, "metadata": old.metadata}
        fields |= {name: make_value(old) for name, make_value in changes.items()}
        return {**collections, kind: Collection(**fields)}, queries

    return change


def set_vector(value: float):
    """Return a change that fills the vector of 0007.jpg with a value."""

    def change(old: Collection) -> np.ndarray:
        vectors = old.vectors.copy()
        vectors[7] = value
        return vectors

    return replace_fields(vectors=change)


def replace_rows(**values):
    """Return a change that sets columns of all image rows."""
    return replace_fields(metadata=lambda c: [row._replace(**values) for row in c.metadata])


INVALID = {
    "nan": (set_vector(np.nan), {}, r"image vector of '0007.jpg' has length nan"),
    "zero": (set_vector(0), {}, r"image vector of '0007.jpg' has length 0, not 1"),
    "long": (set_vector(1), {}, r"'0007.jpg' has length 4.899, not 1"),
    "twice": (replace_fields(ids=lambda c: [*c.ids[:-1], c.ids[0]]), {}, r"id '0000.jpg' occurs twice"),
    "few vectors": (replace_fields(vectors=lambda c: c.vectors[:-1]), {}, r"59 vectors for 60 ids"),
    "short reader": (
        replace_fields(vectors=lambda c: lambda ids: c.vectors[:3]),
        {},
        r"shape \(3, 24\) for 60 ids",
    ),
    "no row": (replace_fields(metadata=lambda c: c.metadata[1:]), {}, r"'0000.jpg' has no row"),
    "unknown row": (
        replace_fields(metadata=lambda c: [*c.metadata, Row("image", "x")]),
        {},
        r"the row of 'x' is superfluous",
    ),
    "row twice": (
        replace_fields(metadata=lambda c: [*c.metadata, c.metadata[4]]),
        {},
        r"the row of '0004.jpg' is superfluous",
    ),
    "row of another kind": (replace_rows(kind="caption"), {}, r"row of image '0000.jpg' has kind 'caption'"),
    "type": (replace_rows(width="wide"), {}, r"does not fit the columns"),
    "empty": (
        replace_fields(ids=lambda c: [], metadata=lambda c: []),
        {},
        r"image collection is empty.*Embed",
    ),
    "nothing": (lambda c, q: ({}, q), {}, r"no collections to index"),
    "kind": (lambda c, q: ({"video": c["image"]}, q), {}, r"no kind 'video'.*image, caption"),
    "no queries": (lambda c, q: (c, {"image": q["image"]}), {}, r"no queries for 'caption'"),
    "one query": (lambda c, q: (c, {**q, "image": q["image"][:1]}), {}, r"1 queries for 'image'. Pass at least 2"),
    "query width": (lambda c, q: (c, {**q, "image": q["image"][:, :9]}), {}, r"shape \(120, 9\).*24 numbers"),
    "query nan": (lambda c, q: (c, {**q, "image": q["image"] * np.nan}), {}, r"query for 'image' in row 0"),
    "width": (
        replace_fields(vectors=lambda c: unit(c.vectors[:, :9])),
        {},
        r"different dimensions \(image 9, caption 24\)",
    ),
    "graph": (lambda c, q: (c, q), {"factory": "HNSW32"}, r"'HNSW32' creates IndexHNSWFlat, which cannot be sharded"),
    "nonsense": (lambda c, q: (c, q), {"factory": "IVF4,Magic"}, r"FAISS does not accept factory 'IVF4,Magic'"),
    "nlist twice": (
        lambda c, q: (c, q),
        {"factory": "IVF4,SQ8", "nlist": 8},
        r"nlist is 8, but factory 'IVF4,SQ8' sets",
    ),
    "unknown key": (lambda c, q: (c, q), {"nprobe": 8}, r"nprobe\n.*[Ee]xtra inputs"),
}


def test_build_rejects_provenance_that_is_not_json(tmp_path):
    with pytest.raises(ValueError, match=r"provenance .*cannot be written as JSON.*Pass strings and numbers"):
        build_index(IndexConfig(), IndexInputs(*make(images=60), {"store": tmp_path}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_row_rejects_unknown_column():
    with pytest.raises(TypeError, match="unexpected keyword argument 'color'"):
        Row("image", "0000.jpg", color=1)


@pytest.mark.parametrize("case", INVALID)
def test_build_rejects_invalid_input_and_publishes_nothing(case, tmp_path):
    change, config, message = INVALID[case]
    with pytest.raises(ValueError, match=message):
        build_index(IndexConfig(**config), IndexInputs(*change(*make(images=60))), tmp_path)
    assert not (tmp_path / "CURRENT").exists()
