"""Bad input to a build is refused by name, with the next move, and nothing is published."""

import numpy as np
import pytest

from index.building.build import build_index
from index.collection import Collection
from index.config import IndexConfig
from tests.helpers.index_world import make, unit


def replaced(kind: str = "image", **changes):
    def change(collections, queries):
        old = collections[kind]
        new = {"ids": old.ids, "vectors": old.vectors, "metadata": old.metadata}
        new |= {name: make_it(old) for name, make_it in changes.items()}
        return {**collections, kind: Collection(**new)}, queries

    return change


def poisoned(value: float):
    def change(old: Collection) -> np.ndarray:
        vectors = old.vectors.copy()
        vectors[7] = value
        return vectors

    return replaced(vectors=change)


BAD = {
    "nan": (poisoned(np.nan), {}, r"image vector of '0007.jpg' has length nan"),
    "zero": (poisoned(0), {}, r"image vector of '0007.jpg' has length 0, not 1"),
    "long": (poisoned(1), {}, r"'0007.jpg' has length 4.899, not 1"),
    "twice": (replaced(ids=lambda c: [*c.ids[:-1], c.ids[0]]), {}, r"'0000.jpg' is given twice"),
    "few vectors": (replaced(vectors=lambda c: c.vectors[:-1]), {}, r"59 vectors for 60 ids"),
    "short reader": (replaced(vectors=lambda c: lambda ids: c.vectors[:3]), {}, r"shape \(3, 24\) for 60 ids"),
    "no row": (replaced(metadata=lambda c: c.metadata[1:]), {}, r"no row for '0000.jpg'"),
    "foreign row": (replaced(metadata=lambda c: [*c.metadata, {"id": "x"}]), {}, r"a row for 'x' too many"),
    "row twice": (replaced(metadata=lambda c: [*c.metadata, c.metadata[4]]), {}, r"a row for '0004.jpg' too many"),
    "column": (replaced(metadata=lambda c: [{**r, "color": 1} for r in c.metadata]), {}, r"unknown column 'color'"),
    "type": (
        replaced(metadata=lambda c: [{**r, "width": "wide"} for r in c.metadata]),
        {},
        r"does not fit the columns",
    ),
    "empty": (replaced(ids=lambda c: [], rows=lambda c: []), {}, r"image collection is empty.*Embed"),
    "nothing": (lambda c, q: ({}, q), {}, r"no collections to index"),
    "kind": (lambda c, q: ({"video": c["image"]}, q), {}, r"no kind 'video'.*image, caption"),
    "no queries": (lambda c, q: (c, {"image": q["image"]}), {}, r"no queries ask for 'caption'"),
    "one query": (lambda c, q: (c, {**q, "image": q["image"][:1]}), {}, r"1 queries for 'image'; give 2"),
    "query width": (lambda c, q: (c, {**q, "image": q["image"][:, :9]}), {}, r"shape \(120, 9\).*24 numbers"),
    "query nan": (lambda c, q: (c, {**q, "image": q["image"] * np.nan}), {}, r"query for 'image', row 0"),
    "width": (replaced(vectors=lambda c: unit(c.vectors[:, :9])), {}, r"different dimensions \(image 9, caption 24\)"),
    "lists": (lambda c, q: (c, q), {"nlist": 61}, r"61 lists, but there are 60 rows"),
    "graph": (lambda c, q: (c, q), {"factory": "HNSW32"}, r"'HNSW32' makes IndexHNSWFlat, which cannot be sharded"),
    "nonsense": (lambda c, q: (c, q), {"factory": "IVF4,Magic"}, r"faiss does not take factory 'IVF4,Magic'"),
    "nlist twice": (lambda c, q: (c, q), {"factory": "IVF4,SQ8", "nlist": 8}, r"nlist 8 says it again"),
    "unknown key": (lambda c, q: (c, q), {"nprobe": 8}, r"nprobe\n.*[Ee]xtra inputs"),
}


def test_provenance_must_be_plain(tmp_path):
    with pytest.raises(ValueError, match=r"provenance .*cannot be written as JSON.*give plain values"):
        build_index(IndexConfig(), *make(images=60), tmp_path, provenance={"store": tmp_path})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_and_nothing_is_published(case, tmp_path):
    change, config, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        build_index(IndexConfig(**config), *change(*make(images=60)), tmp_path)
    assert not (tmp_path / "CURRENT").exists()
