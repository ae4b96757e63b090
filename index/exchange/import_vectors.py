"""Import of folders of vectors made by clip-retrieval, by readers of autofaiss or by `tern index export`.

img_emb/*.npy, text_emb/*.npy, metadata/*.parquet    clip-retrieval: equal row numbers belong together
*.npy, *.parquet (or metadata/*.parquet)             image vectors
image.npy, image.parquet, caption.npy, ...           written by `index.exchange.export`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import KINDS, GateConfig, IndexConfig
from index.exchange.calibration import read_calibration
from index.exchange.import_queries import OWN_QUERIES, choose_queries
from index.exchange.metadata_rows import ColumnChoice, ImportedRows, count_rows, read_metadata_rows
from index.exchange.part_files import (
    ArrayReader,
    check_export,
    check_pairs,
    list_files,
    map_vectors,
)
from index.exchange.row_files import add_row_vectors
from index.metadata.schema import Row
from index.quality.gate import make_gate
from index.versions.calibration import ScoreCalibration
from index.versions.index_folder import check_index_target
from index.versions.switch import IMPORTED, check_same_origin

ID_COLUMNS = ("id", "image_path", "url", "key")  # the first of these columns that exists names an item
TEXT_COLUMNS = {
    "text": ("text", "caption"),
    "path": ("path", "image_path"),
    "split": ("split",),
    "content_hash": ("content_hash", "sha256"),
}
NUMBER_COLUMNS = {"width": ("width", "original_width"), "height": ("height", "original_height")}
EXPORTED_TEXTS = {name: (name,) for name in ("image_id", "text", "path", "split", "content_hash")}
EXPORTED_NUMBERS = {name: (name,) for name in NUMBER_COLUMNS}


@dataclass(frozen=True)
class VectorFolder:
    """Content of a folder of vectors."""

    collections: dict[str, Collection]
    """by kind; vectors are memory-mapped"""
    invalid_rows: tuple[tuple[str, str], ...] = ()
    """file, row and column, and reason of each invalid row of metadata; it and its vector are skipped"""
    warnings: tuple[str, ...] = ()
    """one line per file and column with values that are not valid and count as unknown"""
    alignment_weight: float = 0.0
    """weight of the alignment score, if the collections have row vectors"""
    calibrations: Mapping[str, ScoreCalibration] = field(default_factory=dict)
    """by kind, the calibration of an exported collection"""


def read_vector_folder(folder: Path, normalize: bool = False, id_column: str = "") -> VectorFolder:
    """Read the collections of a folder.

    Args:
        normalize: Scale vectors to unit length when they are read.
        id_column: Metadata column that names an item; "": the first of `ID_COLUMNS` that exists.

    Raises:
        ValueError: A file is not an array of vectors, files do not belong together, or an id occurs twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder. Pass a folder of .npy and Parquet files.")
    exported = {kind: folder / f"{kind}.npy" for kind in KINDS if (folder / f"{kind}.npy").is_file()}
    if exported:
        return _read_exported_folder(exported, normalize)
    images = list_files(folder / "img_emb", "npy") or list_files(folder, "npy")
    texts = list_files(folder / "text_emb", "npy")
    if not images and not texts:
        raise ValueError(
            f"{folder} has no .npy files, and neither have img_emb/ and text_emb/. Pass a folder of vectors."
        )
    tables = list_files(folder / "metadata", "parquet") or list_files(folder, "parquet")
    arrays = {kind: paths for kind, paths in (("image", images), ("caption", texts)) if paths}
    if not tables:
        return VectorFolder({kind: _make_collection(kind, paths, None, normalize) for kind, paths in arrays.items()})
    for paths in arrays.values():
        check_pairs(paths, tables)  # counts are in the footers, so this comes before the rows are decoded
    rows = read_metadata_rows(tables, partial(_choose_columns, id_column))
    collections = {kind: _make_collection(kind, paths, rows, normalize) for kind, paths in arrays.items()}
    return VectorFolder(collections, tuple(rows.invalid_rows), tuple(rows.warnings()))


def _read_exported_folder(arrays: Mapping[str, Path], normalize: bool) -> VectorFolder:
    collections, invalid, warnings, weights = {}, list[tuple[str, str]](), list[str](), [0.0]
    calibrations = {}
    for kind, path in arrays.items():
        table = path.with_suffix(".parquet")
        if len(map_vectors(path)) != (num_rows := count_rows(table)):
            raise ValueError(
                f"{path} has {len(map_vectors(path))} vectors for {num_rows} rows of {table}. Export both again."
            )
        check_export(path, table)
        rows = read_metadata_rows([table], _choose_exported_columns)
        collection = _make_collection(kind, [path], rows, normalize, suffix="")
        collections[kind], weight = add_row_vectors(collection, path, table, rows)
        weights.append(weight)
        if (calibration := read_calibration(table)) is not None:
            calibrations[kind] = calibration
        invalid += rows.invalid_rows
        warnings += rows.warnings()
    return VectorFolder(collections, tuple(invalid), tuple(warnings), max(weights), calibrations)


def _choose_exported_columns(path: Path, names: list[str]) -> ColumnChoice:
    return replace(_choose_columns("id", path, names), texts=EXPORTED_TEXTS, numbers=EXPORTED_NUMBERS)


def _choose_columns(id_column: str, path: Path, names: list[str]) -> ColumnChoice:
    if id_column and id_column not in names:
        raise ValueError(f"{path} has no column {id_column!r}; the columns are {', '.join(names)}.")
    return ColumnChoice(
        id_column or next((name for name in ID_COLUMNS if name in names), ""), TEXT_COLUMNS, NUMBER_COLUMNS
    )


def _make_collection(
    kind: str, paths: Sequence[Path], metadata: ImportedRows | None, normalize: bool, suffix: str | None = None
) -> Collection:
    """Make the collection of some vector files.

    Args:
        kind: Kind of the items.
        paths: Files of vectors.
        metadata: Rows of the items; None: there is no metadata, and ids are positions.
        normalize: Scale vectors to unit length when they are read.
        suffix: Text after each id; None: that of the kind, so that a caption has another id than its image.
    """
    arrays, folder = [array for array in map(map_vectors, paths) if len(array)], paths[0].parent
    if len(dims := sorted({array.shape[1] for array in arrays})) > 1:
        raise ValueError(f"The vectors in {folder} have different dimensions: {dims}. Import vectors of one model.")
    if metadata is None:
        names = [f"{i:09d}" for i in range(sum(map(len, arrays)))]
        rows: list[Row | None] = [Row(kind=kind, id=name, image_id=name) for name in names]
    else:
        suffix = ("" if kind == "image" else "#0") if suffix is None else suffix
        rows = [row and row._replace(kind=kind, id=f"{row.id}{suffix}") for row in metadata.rows]
    position_by_id: dict[str, int] = {}
    for position, row in enumerate(rows):
        if row is not None and (first := position_by_id.setdefault(row.id, position)) != position:
            places = f": {metadata.locate(first)} and {metadata.locate(position)}" if metadata else ""
            raise ValueError(
                f"The {kind} id {row.id!r} occurs twice{places}. Remove one of the two vectors, or pass another "
                "--id-column."
            )
    if not position_by_id and metadata is not None and metadata.invalid_rows:
        where, reason = metadata.invalid_rows[0]
        raise ValueError(f"No row of the metadata of {folder} has a valid id. The first, {where}: {reason}.")
    if not position_by_id:
        raise ValueError(f"The files in {folder} hold no vectors. Export them again.")
    return Collection([*position_by_id], ArrayReader(arrays, position_by_id, normalize).read, [*filter(None, rows)])


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


@dataclass(frozen=True)
class IndexImport:
    """Result of an import."""

    manifest: Path
    """manifest of the published version"""
    invalid_rows: tuple[tuple[str, str], ...]
    """as of `VectorFolder`, and each item whose vector is not finite or has length 0, with the reason"""
    warnings: tuple[str, ...]
    """as of `VectorFolder`, and one line if recall was measured with the vectors that are searched"""


def import_index(config: IndexConfig, folder: Path, root: Path, options: ImportOptions | None = None) -> IndexImport:
    """Build and publish an index of a folder's vectors.

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
    content = read_vector_folder(folder, options.normalize, options.id_column)
    problems = {kind: collection.find_unusable() for kind, collection in content.collections.items()}
    collections = {kind: collection.exclude(problems[kind]) for kind, collection in content.collections.items()}
    for kind, collection in collections.items():
        if not collection.ids:
            name, reason = next(iter(problems[kind].items()))
            raise ValueError(f"No {kind} vector of {folder} can be used. The first, {name!r}: {reason}. Embed again.")
    unusable = [(f"{kind} {name}", reason) for kind in problems for name, reason in problems[kind].items()]
    queries = choose_queries(collections, options.queries, config.tuning_queries, config.seed, options.normalize)
    gate = None if options.gate is None else make_gate(options.gate, queries, collections, config)
    path = Path(folder).resolve()
    provenance = {IMPORTED: path.name, "folder": str(path)}
    inputs = IndexInputs(
        collections,
        {kind: found.vectors for kind, found in queries.items()},
        provenance,
        {kind: found.source for kind, found in queries.items()},
        calibrations=content.calibrations,
        alignment_weight=content.alignment_weight,
    )
    manifest = build_index(config, inputs, root, gate=gate)
    own = tuple(OWN_QUERIES.format(kind=kind) for kind, found in queries.items() if found.source == "self")
    return IndexImport(manifest, (*content.invalid_rows, *unusable), (*content.warnings, *own))
