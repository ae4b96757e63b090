"""Folders of vectors made by clip-retrieval, autofaiss's readers or `tern index export`, as collections.

img_emb/*.npy, text_emb/*.npy, metadata/*.parquet    clip-retrieval: row i of each belongs together
*.npy, *.parquet (or metadata/*.parquet)             vectors of images
image.npy, image.parquet, caption.npy, ...           what `index.export` writes
"""

import re
import tokenize
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.building.build import build_index
from index.collection import Collection
from index.config import GateConfig, IndexConfig
from index.metadata.schema import COLUMNS
from index.quality.checks import HeldOutQueries
from index.quality.gate import make_gate

IDS = ("id", "image_path", "url", "key")  # the first of these columns names an item
RENAMED = {"text": ("text", "caption"), "path": ("path", "image_path"), "content_hash": ("content_hash", "sha256")}
NUMBERS = {"width": ("width", "original_width"), "height": ("height", "original_height")}
READ_ERRORS = (ValueError, EOFError, SyntaxError, tokenize.TokenError, OSError, MemoryError)


def read_vector_folder(folder: Path, normalize: bool = False, id_column: str = "") -> dict[str, Collection]:
    """Collections by kind. Vectors are mapped; with `normalize` they are brought to unit length as they are read.

    Raises ValueError naming the file if one is no array of vectors, or if vectors and rows do not pair up.
    """
    folder, found = Path(folder), {}
    if (folder / "image.npy").is_file() or (folder / "caption.npy").is_file():
        for kind in ("image", "caption"):
            if (folder / f"{kind}.npy").is_file():
                rows = [dict(row) for part in _tables([folder / f"{kind}.parquet"]) for row in part.to_pylist()]
                rows = [{name: row.get(name) for name in COLUMNS if name != "key"} for row in rows]
                found[kind] = _collection([folder / f"{kind}.npy"], rows, normalize)
        return found
    images = _sorted(folder / "img_emb", "npy") or _sorted(folder, "npy")
    texts = _sorted(folder / "text_emb", "npy")
    if not images and not texts:
        raise ValueError(f"{folder} has no .npy files, nor img_emb/ or text_emb/ with any: give a folder of vectors.")
    tables = _sorted(folder / "metadata", "parquet") or _sorted(folder, "parquet")
    rows = _rows(tables, id_column) if tables else None
    for kind, paths in (("image", images), ("caption", texts)):
        if paths:
            _check_pairs(paths, tables)
            named = lambda row, kind=kind: row["id"] if kind == "image" else f"{row['id']}#0"  # noqa: E731
            mine = rows and [{**row, "id": named(row), "kind": kind} for row in rows]
            found[kind] = _collection(paths, mine, normalize)
    return found


def _sorted(folder: Path, suffix: str) -> list[Path]:
    """Files by the numbers in their names, so that part 10 comes after part 9."""
    in_order = lambda path: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path.name)]  # noqa: E731
    return sorted(folder.glob(f"*.{suffix}"), key=in_order)


def _mapped(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except READ_ERRORS as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path} has an array of {array.dtype} with shape {array.shape}; vectors are (n, d) floats.")
    return array


def _tables(paths: Sequence[Path]) -> list[pa.Table]:
    try:
        return [pq.read_table(path) for path in paths]
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{paths[0].parent} has metadata that cannot be read: {error}") from error


def _check_pairs(arrays: Sequence[Path], tables: Sequence[Path]) -> None:
    """A position is all that ties a row to its vector there, so the counts must agree file by file."""
    if not tables:
        return
    if len(arrays) != len(tables):
        raise ValueError(f"{arrays[0].parent} has {len(arrays)} files of vectors for {len(tables)} of metadata.")
    for array, table in zip(arrays, tables, strict=True):
        vectors, rows = len(_mapped(array)), pq.read_metadata(table).num_rows
        if vectors != rows:
            raise ValueError(f"{array} has {vectors} vectors, {table} {rows} rows: they do not belong together.")


def _rows(tables: Sequence[Path], id_column: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for table in _tables(tables):
        column = id_column or next((name for name in IDS if name in table.column_names), "")
        if id_column and id_column not in table.column_names:
            raise ValueError(f"there is no column {id_column!r}; there are {', '.join(table.column_names)}.")
        for values in table.to_pylist():
            name = str(values[column]) if column else f"{len(rows):09d}"
            row = {"id": name, "image_id": name, "split": values.get("split")}
            row |= {ours: _first(values, theirs, str) for ours, theirs in RENAMED.items()}
            rows.append(row | {ours: _first(values, theirs, int) for ours, theirs in NUMBERS.items()})
    return rows


def _first(values: dict[str, Any], names: Sequence[str], kind: type) -> Any:
    """The first of the columns that says something, as `kind`; NaN, which pandas writes for nothing, says nothing."""
    found = next((value for value in map(values.get, names) if value is not None and value == value), None)
    return None if found is None else kind(found)


def _collection(paths: Sequence[Path], rows: list[dict[str, Any]] | None, normalize: bool) -> Collection:
    """`rows` None: no metadata came with the vectors, and ids are their places."""
    arrays = [_mapped(path) for path in paths]
    if len({array.shape[1] for array in arrays}) > 1:
        raise ValueError(f"{paths[0].parent} has vectors of several widths: {sorted({a.shape[1] for a in arrays})}.")
    total = sum(map(len, arrays))
    if rows is None:
        rows = [{"id": f"{i:09d}", "image_id": f"{i:09d}"} for i in range(total)]
    if len(rows) != total:
        raise ValueError(f"{paths[0].parent} has {total} vectors for {len(rows)} rows: they do not belong together.")
    ids = [row["id"] for row in rows]
    place = {name: i for i, name in enumerate(ids)}
    starts = np.cumsum([0, *map(len, arrays)])
    return Collection(ids, partial(_read, arrays, starts, place, normalize), rows)


def _read(
    arrays: Sequence[np.ndarray], starts: np.ndarray, place: dict[str, int], normalize: bool, names: Sequence[str]
) -> np.ndarray:
    """(m, d) float32 vectors of the names."""
    wanted = np.array([place[name] for name in names])
    of = np.searchsorted(starts, wanted, side="right") - 1
    found = np.empty((len(wanted), arrays[0].shape[1]), np.float32)
    for i in np.unique(of):
        found[of == i] = arrays[i][wanted[of == i] - starts[i]]
    return found / np.linalg.norm(found, axis=1, keepdims=True) if normalize else found


def choose_queries(
    collections: dict[str, Collection], given: Path | None, most: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Queries by the kind they ask for: the vectors of the other kind, or a file of (q, d) floats for a lone kind.

    Raises ValueError if there is neither: recall must not be measured with the vectors that are looked for.
    """
    if given is not None:
        return dict.fromkeys(collections, np.asarray(_mapped(given), np.float32))
    other = {"image": "caption", "caption": "image"}
    if len(collections) < 2:
        raise ValueError(
            f"there are only {next(iter(collections))} vectors, and no queries to measure recall with: give --queries, "
            "a .npy of vectors of sentences (or of photographs) that are not among them."
        )
    found = {}
    for kind in collections:
        names = sorted(collections[other[kind]].ids)
        places = np.random.Generator(np.random.PCG64(seed)).choice(len(names), min(most, len(names)), replace=False)
        found[kind] = collections[other[kind]].read([names[i] for i in np.sort(places)])
    return found


def import_index(
    config: IndexConfig,
    folder: Path,
    root: Path,
    normalize: bool = False,
    queries: Path | None = None,
    id_column: str = "",
    gate: GateConfig | None = None,
) -> Path:
    """Build and publish an index of a folder's vectors (see `read_folder`, `queries_of`); return its manifest.

    Raises RefusedError if it does not pass the gate; right answers are not known, so they are not asked for.
    """
    collections = read_vector_folder(folder, normalize, id_column)
    asked = choose_queries(collections, queries, config.tuning_queries, config.seed)
    questions = {kind: HeldOutQueries(array) for kind, array in asked.items()}
    judge = None if gate is None else make_gate(gate, questions, collections, config)
    return build_index(config, collections, asked, root, {"imported": Path(folder).name}, gate=judge)
