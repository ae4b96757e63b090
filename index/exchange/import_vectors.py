"""Import of folders of vectors made by clip-retrieval, by readers of autofaiss or by `tern index export`.

img_emb/*.npy, text_emb/*.npy, metadata/*.parquet    clip-retrieval: equal row numbers belong together
*.npy, *.parquet (or metadata/*.parquet)             image vectors
image.npy, image.parquet, caption.npy, ...           written by `index.exchange.export`
"""

import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import KINDS, GateConfig, IndexConfig
from index.metadata.schema import CONTENT_COLUMNS, Row
from index.quality.checks import HeldOutQueries
from index.quality.gate import make_gate
from index.versions.index_folder import check_index_target
from index.versions.switch import IMPORTED, check_same_origin

ID_COLUMNS = ("id", "image_path", "url", "key")  # the first of these columns that exists names an item
TEXT_COLUMNS = {"text": ("text", "caption"), "path": ("path", "image_path"), "content_hash": ("content_hash", "sha256")}
NUMBER_COLUMNS = {"width": ("width", "original_width"), "height": ("height", "original_height")}
READ_ERRORS = (ValueError, EOFError, SyntaxError, tokenize.TokenError, OSError, MemoryError)
OTHER_KIND = {"image": "caption", "caption": "image"}


def read_vector_folder(folder: Path, normalize: bool = False, id_column: str = "") -> dict[str, Collection]:
    """Read the collections of a folder by kind; vectors are memory-mapped.

    Args:
        normalize: Scale vectors to unit length when they are read.
        id_column: Metadata column that names an item; "": the first of `ID_COLUMNS` that exists.

    Raises:
        ValueError: A file is not an array of vectors, or the numbers of vectors and rows differ.
    """
    folder = Path(folder)
    exported = {kind: folder / f"{kind}.npy" for kind in KINDS if (folder / f"{kind}.npy").is_file()}
    if exported:
        return {
            kind: _make_collection(kind, [path], _read_exported_rows(kind, path.with_suffix(".parquet")), normalize)
            for kind, path in exported.items()
        }
    images = _list_files(folder / "img_emb", "npy") or _list_files(folder, "npy")
    texts = _list_files(folder / "text_emb", "npy")
    if not images and not texts:
        raise ValueError(
            f"{folder} has no .npy files, and neither have img_emb/ and text_emb/. Pass a folder of vectors."
        )
    tables = _list_files(folder / "metadata", "parquet") or _list_files(folder, "parquet")
    rows = _read_rows(tables, id_column) if tables else None
    collections = {}
    for kind, paths in (("image", images), ("caption", texts)):
        if paths:
            _check_pairs(paths, tables)
            suffix = "" if kind == "image" else "#0"
            kind_rows = rows and [row._replace(kind=kind, id=f"{row.id}{suffix}") for row in rows]
            collections[kind] = _make_collection(kind, paths, kind_rows, normalize)
    return collections


def _list_files(folder: Path, suffix: str) -> list[Path]:
    """List files in the order of the numbers in their names, so that part 10 follows part 9."""

    def sort_key(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]

    return sorted(folder.glob(f"*.{suffix}"), key=sort_key)


def _map_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except READ_ERRORS as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(
            f"{path} has an array {array.dtype} of shape {array.shape}; vectors are (n, d) floats. Save it again."
        )
    return array


def _read_tables(paths: Sequence[Path]) -> list[pa.Table]:
    try:
        return [pq.read_table(path) for path in paths]
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"The metadata in {paths[0].parent} cannot be read: {error}") from error


def _read_exported_rows(kind: str, path: Path) -> list[Row]:
    (table,) = _read_tables([path])
    if "id" not in table.column_names:
        raise ValueError(f"{path} has no column 'id'; the columns are {', '.join(table.column_names)}.")
    return [
        Row(**{"kind": kind} | {name: row.get(name) for name in CONTENT_COLUMNS if name in row})
        for row in table.to_pylist()
    ]


def _check_pairs(arrays: Sequence[Path], tables: Sequence[Path]) -> None:
    """Check the counts file by file, because only its position connects a row with its vector."""
    if not tables:
        return
    if len(arrays) != len(tables):
        raise ValueError(
            f"{arrays[0].parent} has {len(arrays)} files of vectors, but there are {len(tables)} metadata files. "
            "Provide one metadata file per file of vectors."
        )
    for array, table in zip(arrays, tables, strict=True):
        num_vectors, num_rows = len(_map_array(array)), pq.read_metadata(table).num_rows
        if num_vectors != num_rows:
            raise ValueError(f"{array} has {num_vectors} vectors, but {table} has {num_rows} rows. Export both again.")


def _read_rows(tables: Sequence[Path], id_column: str) -> list[Row]:
    rows: list[Row] = []
    for table in _read_tables(tables):
        column = id_column or next((name for name in ID_COLUMNS if name in table.column_names), "")
        if id_column and id_column not in table.column_names:
            raise ValueError(f"There is no column {id_column!r}; the columns are {', '.join(table.column_names)}.")
        for values in table.to_pylist():
            name = str(values[column]) if column else f"{len(rows):09d}"
            texts = {target: _find_value(values, names, str) for target, names in TEXT_COLUMNS.items()}
            numbers = {target: _find_value(values, names, int) for target, names in NUMBER_COLUMNS.items()}
            rows.append(Row(kind="image", id=name, image_id=name, split=values.get("split"), **texts, **numbers))
    return rows


def _find_value(values: Mapping[str, Any], names: Sequence[str], convert: type) -> Any:
    """Return the first value of some columns that is neither null nor NaN; else None.

    pandas writes NaN for null.
    """
    value = next((value for value in map(values.get, names) if value is not None and value == value), None)
    return None if value is None else convert(value)


def _make_collection(kind: str, paths: Sequence[Path], rows: list[Row] | None, normalize: bool) -> Collection:
    """Make the collection of some vector files; `rows` None: there is no metadata, and ids are positions."""
    arrays = [_map_array(path) for path in paths]
    folder = paths[0].parent
    if len({array.shape[1] for array in arrays}) > 1:
        dims = sorted({array.shape[1] for array in arrays})
        raise ValueError(f"The vectors in {folder} have different dimensions: {dims}. Import vectors of one model.")
    num_vectors = sum(map(len, arrays))
    if rows is None:
        rows = [Row(kind=kind, id=f"{i:09d}", image_id=f"{i:09d}") for i in range(num_vectors)]
    if len(rows) != num_vectors:
        raise ValueError(f"{folder} has {num_vectors} vectors for {len(rows)} rows. Export both again.")
    ids = [row.id for row in rows]
    reader = _ArrayReader(arrays, {name: i for i, name in enumerate(ids)}, normalize)
    return Collection(ids, reader.read, rows)


@dataclass(frozen=True)
class _ArrayReader:
    """Reads vectors by id from consecutive arrays."""

    arrays: Sequence[np.ndarray]
    position_by_id: Mapping[str, int]
    normalize: bool

    def read(self, ids: Sequence[str]) -> np.ndarray:
        """Return the (m, d) float32 vectors of some ids."""
        starts = np.cumsum([0, *map(len, self.arrays)])
        positions = np.array([self.position_by_id[name] for name in ids])
        array_numbers = np.searchsorted(starts, positions, side="right") - 1
        vectors = np.empty((len(positions), self.arrays[0].shape[1]), np.float32)
        for i in np.unique(array_numbers):
            selected = array_numbers == i
            vectors[selected] = self.arrays[i][positions[selected] - starts[i]]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self.normalize else vectors


def choose_queries(
    collections: Mapping[str, Collection], path: Path | None, max_queries: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return queries by the kind that is searched: random vectors of the other kind, or those of a file.

    Args:
        path: .npy file of (q, d) floats; None: use the vectors of the other kind.
        max_queries: Maximum number of vectors of the other kind.

    Raises:
        ValueError: There are neither; recall is not measured with the vectors that are searched.
    """
    if path is not None:
        return dict.fromkeys(collections, np.asarray(_map_array(path), np.float32))
    if len(collections) < 2:
        raise ValueError(
            f"There are only {next(iter(collections))} vectors, and no queries to measure recall with. Pass --queries: "
            "a .npy file of caption or image vectors that are not among them."
        )
    queries = {}
    for kind in collections:
        source = collections[OTHER_KIND[kind]]
        ids, generator = sorted(source.ids), np.random.Generator(np.random.PCG64(seed))
        positions = generator.choice(len(ids), min(max_queries, len(ids)), replace=False)
        queries[kind] = source.read([ids[i] for i in np.sort(positions)])
    return queries


@dataclass(frozen=True)
class ImportOptions:
    """How the vectors of a folder are imported."""

    normalize: bool = False
    """scale vectors to unit length"""
    queries: Path | None = None
    """.npy file of queries; None: the vectors of the other kind"""
    id_column: str = ""
    """metadata column that names an item; "": id, image_path, url or key, the first that exists"""
    gate: GateConfig | None = None
    """limits of the gate; None: there is no gate"""


def import_index(config: IndexConfig, folder: Path, root: Path, options: ImportOptions | None = None) -> Path:
    """Build and publish an index of a folder's vectors; return the path of its manifest.

    Args:
        config: Settings of the index.
        folder: Folder with the files that `read_vector_folder` reads.
        root: Folder of the index.
        options: Choices of the import; None: the defaults.

    Raises:
        ValueError: `root` is the index of a plan; or as `read_vector_folder`, `choose_queries` and `build_index`.
        RejectedError: The gate rejects it. Relevant items are unknown, so success@10 is not checked.
    """
    options = options or ImportOptions()
    check_index_target(Path(root))  # before the vectors are read, which may take minutes
    check_same_origin(Path(root), is_imported=True)
    collections = read_vector_folder(folder, options.normalize, options.id_column)
    queries = choose_queries(collections, options.queries, config.tuning_queries, config.seed)
    held_out = {kind: HeldOutQueries(array) for kind, array in queries.items()}
    gate = None if options.gate is None else make_gate(options.gate, held_out, collections, config)
    inputs = IndexInputs(collections, queries, {IMPORTED: Path(folder).resolve().name})
    return build_index(config, inputs, root, gate=gate)
