"""Metadata of third-party vectors: null ids, bytes for text, sizes that are none, parts that do not belong together.

The right values are those of SQL and Arrow: null is no value, and bytes are UTF-8 text.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from index.exchange.import_vectors import read_vector_folder
from pipeline.cli.app import build_app

N = 12
PATHS = [f"p{i:02d}.jpg" for i in range(N)]
TEXTS = [f"photo {i}" for i in range(N)]


def write_folder(folder: Path, parts=(0,), tables=None, rows=N, suffix="", **columns) -> Path:
    """Write a folder like clip-retrieval's, with `rows` vectors per part; part i has the i-th unit vectors."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in parts:
        for kind in ("img", "text"):
            np.save(folder / f"{kind}_emb/{kind}_emb_{number}.npy", np.eye(N, 16, dtype=np.float32)[:rows])
    for number in parts if tables is None else tables:
        names = {"image_path": [f"{suffix}{number}/{path}" for path in PATHS[:rows]], "caption": TEXTS[:rows]}
        pq.write_table(pa.table(columns or names), folder / f"metadata/metadata_{number}.parquet")
    return folder


def read_columns(folder: Path, **columns):
    content = read_vector_folder(write_folder(folder, **{"image_path": PATHS, "caption": TEXTS, **columns}))
    return content, {row.id: row for row in content.collections["image"].metadata}


@pytest.mark.parametrize(
    ("ids", "expected", "reason"),
    [
        ([None, *PATHS[1:]], PATHS[1:], "null is not an id"),
        (pa.array([path.encode() for path in PATHS]), PATHS, ""),
        (pa.array([b"\xff", *(path.encode() for path in PATHS[1:])]), PATHS[1:], r"b'\xff' is not UTF-8 text"),
        ([None, *map(float, range(1, N))], list(map(str, range(1, N))), "null is not an id"),
        ([0.5, *map(float, range(1, N))], list(map(str, range(1, N))), "0.5 is not a text or a whole number"),
        ([float("nan"), *map(float, range(1, N))], list(map(str, range(1, N))), "null is not an id"),
        ([2.0**60, *map(float, range(1, N))], list(map(str, range(1, N))), "whole number that a float holds exactly"),
        (list(range(N)), list(map(str, range(N))), ""),
        (["", *PATHS[1:]], PATHS[1:], "'' is not an id"),
        (["a\0b", *PATHS[1:]], PATHS[1:], r"'a\x00b' is not an id"),
        (["a\nb.jpg", *PATHS[1:]], PATHS[1:], r"'a\nb.jpg' is not an id: it has the control character \n"),
        (["\u202ea.jpg", *PATHS[1:]], PATHS[1:], r"it has the control character \u202e"),
        (["x" * 1001, *PATHS[1:]], PATHS[1:], "it has 1,001 characters; at most 1,000 are allowed"),
        (pa.array(PATHS).dictionary_encode(), PATHS, ""),
        (pa.array(PATHS, pa.large_string()), PATHS, ""),
    ],
    ids=str,
)
def test_import_names_rows_without_a_valid_id(ids, expected, reason, tmp_path):
    content, rows = read_columns(tmp_path, id=ids)
    images, captions = (content.collections[kind] for kind in ("image", "caption"))
    assert images.ids == expected
    assert captions.ids == [f"{name}#0" for name in expected]
    assert [where for where, _ in content.invalid_rows] == ["metadata_0.parquet row 0 column 'id'"] * bool(reason)
    assert all(reason in text for _, text in content.invalid_rows)
    first = N - len(expected)  # a vector belongs to the row of its position, also behind an invalid row
    assert np.array_equal(images.read(expected[:1]), np.eye(N, 16, dtype=np.float32)[[first]])
    assert rows[expected[0]].text == TEXTS[first]


def test_import_with_two_rows_without_id_keeps_the_others(tmp_path):
    content, rows = read_columns(tmp_path, image_path=[None, None, *PATHS[2:]])
    assert list(rows) == PATHS[2:]
    assert len(content.invalid_rows) == 2


@pytest.mark.parametrize(
    ("widths", "expected", "example"),
    [
        ([640.0] * (N - 1) + [float("inf")], None, "row 11: inf is not a size"),
        (["640"] * (N - 1) + ["wide"], None, "row 11: wide is not a size"),
        ([640] * (N - 1) + [2**62], None, f"row 11: {2**62} is not a size"),
        ([640] * (N - 1) + [0], None, "row 11: 0 is not a size"),
        ([640] * (N - 1) + [-5], None, "row 11: -5 is not a size"),
        ([640.0] * (N - 1) + [640.7], None, "row 11: 640.7 is not a size"),
        ([640.0] * (N - 1) + [float("nan")], None, ""),
        (["640"] * N, 640, ""),
    ],
    ids=str,
)
def test_import_stores_no_size_that_is_none(widths, expected, example, tmp_path):
    content, rows = read_columns(tmp_path, width=widths)
    assert (rows[PATHS[0]].width, rows[PATHS[-1]].width) == (640, expected)
    start = "metadata_0.parquet column 'width': 1 values are not valid and count as unknown, the first in "
    assert [w.startswith(start + example) for w in content.warnings] == [True] * bool(example)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("width", [[640]] * N, r"column 'width' is list<\w+: int64>; it must have whole numbers"),
        ("width", [True] * N, "column 'width' is bool; it must have whole numbers"),
        ("caption", [1] * N, "column 'caption' is int64; it must have text"),
        ("split", [{"a": 1}] * N, r"column 'split' is struct<a: int64>; it must have text"),
        ("id", pa.array(range(N), pa.timestamp("ns")), r"column 'id' is timestamp\[ns\]; it must have text or whole"),
        (
            "id",
            PATHS[:-1] + PATHS[:1],
            r"'p00.jpg' occurs twice: metadata_0.parquet row 0 and metadata_0.parquet row 11",
        ),
        ("id", [None] * N, "No row of the metadata .* has a valid id. The first, metadata_0.parquet row 0 column 'id'"),
    ],
    ids=str,
)
def test_import_refuses_columns_that_cannot_be_what_they_claim(column, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_columns(tmp_path, **{column: values})


@pytest.mark.parametrize(
    ("parts", "tables", "message"),
    [
        ((0, 1), (0, 2), r"img_emb_1\.npy has no metadata, and .*metadata_2\.parquet has no vectors"),
        ((0, 1, 2), (0, 1), r"3 files of vectors, but there are 2 metadata files.*img_emb_2\.npy has no metadata"),
        ((3, 5), (0, 1), r"img_emb_3\.npy has no metadata"),
        (("a_0", "b_0"), (0,), r"img_emb_b_0\.npy has no metadata"),
    ],
)
def test_parts_belong_together_by_their_numbers(parts, tables, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_vector_folder(write_folder(tmp_path, parts, tables))


@pytest.mark.parametrize(
    ("parts", "tables"),
    [((0, 1), (1, 2)), (("00", "01", "10"), (0, 1, 10)), (("a", "b"), ("c", "d")), (("x",), (7,)), ((9, 10), (9, 10))],
    ids=str,
)
def test_parts_without_numbers_or_with_a_constant_difference_pair_in_their_order(parts, tables, tmp_path):
    images = read_vector_folder(write_folder(tmp_path, parts, tables)).collections["image"]
    assert images.ids == [f"{number}/{path}" for number in tables for path in PATHS]


def test_empty_part_is_no_error(tmp_path):
    write_folder(tmp_path)
    for kind in ("img", "text"):
        np.save(tmp_path / f"{kind}_emb/{kind}_emb_1.npy", np.empty(0, np.float32))
    empty = pa.table({"image_path": pa.array([], pa.string()), "caption": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "metadata/metadata_1.parquet")
    assert read_vector_folder(tmp_path).collections["image"].ids == [f"0/{path}" for path in PATHS]


def test_import_of_parts_without_any_vector_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"The files in .* hold no vectors\. Export them again"):
        read_vector_folder(write_folder(tmp_path, rows=0))


def test_hidden_files_of_the_system_are_no_parts(tmp_path):
    write_folder(tmp_path)
    for name in ("img_emb/._img_emb_0.npy", "text_emb/._text_emb_0.npy", "metadata/._metadata_0.parquet"):
        (tmp_path / name).write_bytes(b"\0\5\26\7 of macOS")
    assert read_vector_folder(tmp_path).collections["image"].ids == [f"0/{path}" for path in PATHS]


def test_column_that_occurs_twice_is_an_error(tmp_path):
    write_folder(tmp_path)
    table = pa.table([pa.array(PATHS), pa.array(TEXTS), pa.array(TEXTS)], ["image_path", "caption", "caption"])
    pq.write_table(table, tmp_path / "metadata/metadata_0.parquet")
    with pytest.raises(ValueError, match=r"metadata_0\.parquet has the column 'caption' more than once"):
        read_vector_folder(tmp_path)


@pytest.mark.parametrize("dtype", [">f4", "<f2", "f8"])
def test_vectors_of_another_float_type_keep_their_values(dtype, tmp_path):
    np.save(tmp_path / "a.npy", np.eye(3, dtype=dtype))
    assert np.array_equal(read_vector_folder(tmp_path).collections["image"].read(["000000001"]), np.eye(3)[[1]])


@pytest.mark.parametrize("dtype", ["c8", "i1", "?", "V4", "U3"])
def test_vectors_that_are_not_floats_are_refused(dtype, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4), dtype))
    with pytest.raises(ValueError, match=r"a\.npy has an array .* of shape \(3, 4\); vectors are \(n, d\) floats"):
        read_vector_folder(tmp_path)


def test_exported_files_of_different_exports_are_refused_before_rows_are_read(tmp_path):
    np.save(tmp_path / "image.npy", np.eye(3, dtype="f4"))
    pq.write_table(pa.table({"id": ["a", "b"]}), tmp_path / "image.parquet")
    with pytest.raises(ValueError, match=r"image\.npy has 3 vectors for 2 rows of .*image\.parquet"):
        read_vector_folder(tmp_path)


@pytest.mark.parametrize("vectors", [10, 1_000_000])
def test_parquet_that_expands_is_refused_before_it_is_decoded(vectors, tmp_path):
    """One sentence of 1,000 characters, a million times in dictionary code: 1 GB of text in a few kilobytes."""
    rows = 1_000_000
    for part in ("img_emb", "metadata"):
        (tmp_path / part).mkdir()
    np.save(tmp_path / "img_emb/img_emb_0.npy", np.zeros((vectors, 1), np.float16))
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a dog " * 166]))
    ids = pa.array(np.arange(rows, dtype=np.int32))
    table = pa.table({"key": ids, "caption": column})
    pq.write_table(table, tmp_path / "metadata/metadata_0.parquet", compression="zstd", store_schema=False)
    program = (
        "import re, resource, sys; from pathlib import Path\n"
        "from index.exchange.import_vectors import read_vector_folder\n"
        "try: read_vector_folder(Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    message, peak = done.stdout.splitlines()
    if vectors == rows:
        assert "The text of" in message
        assert "which decompress to" in message
    else:
        assert "img_emb_0.npy has 10 vectors, but" in message
        assert "metadata_0.parquet has 1000000 rows" in message
    assert int(peak) < 600 << 10  # kilobytes; faiss and pyarrow alone take 150 MB


def test_import_command_prints_invalid_rows_and_unknown_values(tmp_path):
    folder = write_folder(tmp_path / "in", image_path=[None, *PATHS[1:]], caption=TEXTS, width=[0] * N)
    command = ["index", "import", str(folder), "--output", str(tmp_path / "index"), "--set", "nlist=1"]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    assert "invalid  metadata_0.parquet row 0 column 'image_path': null is not an id" in result.output
    assert "metadata_0.parquet column 'width': 11 values are not valid and count as unknown, the first in row 1: 0" in (
        result.output
    )
