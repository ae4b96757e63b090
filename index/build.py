"""Vectors in, a published version out: one trained quantiser and `shards` files of lists for each collection."""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.files import digest
from index import metadata, shards
from index.collection import KINDS, Collection, check_unit, key_of, keys_of
from index.publish import SCHEMA, Progress, publish, quiet
from index.tune import tune

TEMPLATE = "template.faiss"


class IndexConfig(BaseModel):
    """How an index is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factory: str = "auto"
    """faiss factory string of a plain inverted file; "{nlist}" is filled in. auto: float16 codes up to 50,000 rows
    (exact but for the lists not probed), one byte a number beyond."""
    nlist: int | None = Field(None, ge=1)
    """inverted lists a collection; None: 4 sqrt(rows), at least 39 rows a list, rounded down to a power of two"""
    shards: int = Field(4, ge=1, le=4096)
    """files a collection; an item's 64-bit id says which"""
    target_recall: float = Field(0.99, gt=0, le=1)
    """share of the exact best 10 to be found, on the queries that choose nprobe"""
    train_rows: int = Field(262_144, ge=1)
    """rows drawn at random to train the quantiser, at most"""
    query_rows: int = Field(2_000, ge=2)
    """queries drawn at random to choose nprobe (one half) and to judge it (the other), at most"""
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _one_source_of_nlist(self) -> "IndexConfig":
        if self.nlist is not None and self.factory != "auto" and "{nlist}" not in self.factory:
            raise ValueError(
                f"factory {self.factory!r} says how many lists, and nlist {self.nlist} says it again; "
                "write IVF{nlist} in the factory or leave nlist out."
            )
        return self


def build(
    config: IndexConfig,
    collections: Mapping[str, Collection],
    queries: Mapping[str, np.ndarray],
    root: Path,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> Path:
    """Build an index version under `root`, point CURRENT at it and return its folder.

    collections  by kind, "image" and "caption" (either may be left out); equal dimension d
    queries      by the kind they ask for, (q, d) unit vectors, two or more, held out from training: vectors of
                 sentences for "image", vectors of images for "caption". They choose nprobe and measure recall@10.
    provenance   what the vectors came from (digests of model and stores), JSON-able, kept in the manifest
    progress     called with the name of every step once it is done

    Equal input gives equal bytes, whatever the order of ids, and if a version of equal input verifies, that one is
    returned and nothing is built. Raises ValueError naming the first item that cannot be indexed.
    """
    shards.one_wheel()
    _check_kinds(collections, queries)
    dims, prints = {}, {}
    for kind, collection in collections.items():
        collection.check(kind)
        prints[kind], dims[kind] = collection.fingerprint(kind)
    asked = {kind: _queries(kind, queries[kind], dims, config) for kind in collections}
    content = metadata.table({kind: collection.rows for kind, collection in collections.items()})
    origin = _plain(dict(provenance or {}))
    inputs = digest(
        {
            "schema": SCHEMA,
            "faiss": faiss.__version__,
            "config": config.model_dump(mode="json"),
            "vectors": prints,
            "queries": {kind: sha256(array.tobytes()).hexdigest() for kind, array in asked.items()},
            "metadata": digest(content.to_pylist()),
            "provenance": origin,
        }
    )

    def fill(folder: Path) -> dict[str, Any]:
        body = {
            kind: _build_collection(config, kind, collection, asked[kind], folder, progress)
            for kind, collection in collections.items()
        }
        metadata.write_parquet(folder / metadata.PARQUET, content)
        progress("metadata.parquet")
        metadata.write_lookup(folder / metadata.LOOKUP, content)
        progress("lookup.sqlite")
        about = {"faiss": faiss.__version__, "config": config.model_dump(mode="json"), "provenance": origin}
        return about | {"collections": body}

    return publish(Path(root), inputs, fill, progress)


def _plain(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance as JSON reads it back; refused now rather than after the work, if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(provenance, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance {provenance!r} cannot be written as JSON: {error}; give plain values.") from error


def _check_kinds(collections: Mapping[str, Collection], queries: Mapping[str, np.ndarray]) -> None:
    if not collections:
        raise ValueError("there are no collections to index; give the vectors of images, captions or both.")
    for kind in collections:
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind!r}; a collection is one of {', '.join(KINDS)}.")
        if kind not in queries:
            raise ValueError(f"no queries ask for {kind!r}; give held-out vectors of the other kind to measure recall.")


def _queries(kind: str, queries: np.ndarray, dims: Mapping[str, int], config: IndexConfig) -> np.ndarray:
    """(q, d) float32: at most `query_rows` of the queries, checked."""
    dim, array = dims[kind], np.asarray(queries, np.float32)
    if set(dims.values()) != {dim}:
        told = ", ".join(f"{name} {d}" for name, d in dims.items())
        raise ValueError(f"the collections have different dimensions ({told}); embed both with one model.")
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"queries for {kind!r} have shape {array.shape}, the collection's vectors have {dim} numbers.")
    if len(array) < 2:
        raise ValueError(f"{len(array)} queries for {kind!r}; give 2 or more: half choose nprobe, half judge it.")
    check_unit(array, f"query for {kind!r}, row", range(len(array)))
    if len(array) <= config.query_rows:
        return array
    return array[_sample(len(array), config.query_rows, config.seed)]


def _sample(rows: int, most: int, seed: int) -> np.ndarray:
    """Sorted places of at most `most` of `rows`, at random: a prefix would be one split or one day of the data."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.choice(rows, min(rows, most), replace=False))


def _build_collection(
    config: IndexConfig, kind: str, collection: Collection, queries: np.ndarray, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write one collection's files into folder/kind; return its part of the manifest."""
    (folder / kind).mkdir()
    rows = len(collection.ids)
    template = f"{kind}/{TEMPLATE}"
    factory = shards.choose_factory(config.factory, config.nlist, rows)
    names = [collection.ordered[place] for place in _sample(rows, config.train_rows, config.seed)]
    trained = shards.train(factory, np.concatenate([block for _, block in collection.blocks(names)]), config.seed)
    shards.write_template(trained, folder / template)
    progress(template)
    entries = []
    for number, mine in enumerate(_parts(kind, collection, config.shards)):
        name = f"{kind}/shard-{number:04d}.lists"
        blocks = ((keys_of(kind, part), vectors) for part, vectors in collection.blocks(mine))
        entries.append({"file": name, "rows": shards.write_shard(folder / template, folder / name, blocks)})
        progress(name)
    lists = shards.Lists(folder / template, [folder / entry["file"] for entry in entries])
    tuned = tune(kind, collection, lists, queries, config.target_recall, config.seed)
    progress(f"{kind} tuned")
    about = {"rows": rows, "dim": lists.dim, "factory": factory, "nlist": lists.nlist, "nprobe": tuned.nprobe}
    return about | {"template": template, "shards": entries, "recall": tuned.as_dict()}


def _parts(kind: str, collection: Collection, count: int) -> Iterator[list[str]]:
    """The ids of each shard, sorted; the key alone decides, so an item stays in its shard as others come and go."""
    parts: list[list[str]] = [[] for _ in range(count)]
    for name in collection.ordered:
        parts[key_of(kind, name) % count].append(name)
    return iter(parts)
