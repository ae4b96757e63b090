"""One collection in each form that people keep images in has equal records; and bad inputs of each form."""

import json
from pathlib import Path

import pytest

from data.config import DatasetConfig
from data.datasets import Dataset, load_dataset
from tests.helpers.collection_forms import FORMS, TYPES, Record, describe_records, draw_jpeg, make_records, write_form


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return make_records()


def load(root: Path, **settings: object) -> Dataset:
    return load_dataset(DatasetConfig.model_validate({"name": "mine", "images": root, **settings}))


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_collection_have_equal_records(form: str, records: list[Record], tmp_path: Path) -> None:
    dataset = load_dataset(write_form(form, tmp_path / "images", records))
    assert dataset.invalid_records == ()
    assert dataset.columns == TYPES
    found = describe_records(dataset)
    assert found.keys() == {f"{record.folder}/{record.key}" for record in records}
    for record in records:
        split, captions, columns = found[f"{record.folder}/{record.key}"]
        assert (captions, columns) == ((record.caption,), record.columns)
        assert record.split in (split, None)


@pytest.mark.parametrize(
    ("values", "declared", "column_type", "expected", "note"),
    [
        (["1", "2.5", ""], None, "number", [1, 2.5, None], ""),
        (["3.0", "-7", "+2"], None, "number", [3, -7, 2], ""),
        (["007", "8", "9"], None, "text", ["007", "8", "9"], "'007' of a.jpg. Set `x = \"number\"`"),
        (["1", "2", "n/a"], None, "text", ["1", "2", "n/a"], "1 of its 3 values are not a number, such as 'n/a'"),
        (["1", "2", "n/a"], "number", "number", [1, 2, None], "1 value is left out, the first 'n/a' of c.jpg"),
        (["2024-05-31", "2023-01-01", ""], None, "date", ["2024-05-31", "2023-01-01", None], ""),
        (["2024-05-31 10:00", "2024-05-31T23:30:00-05:00", "2024-05-31T10:00:00.25Z"], None, "date",
         ["2024-05-31T10:00:00", "2024-06-01T04:30:00Z", "2024-05-31T10:00:00Z"], ""),
        (["2024-02-30", "2024-02-01", "soon"], "date", "date", [None, "2024-02-01", None], "2 values are left out"),
        (["2024-13-01", "2024-02-01", "2024-02-02"], None, "text", ["2024-13-01", "2024-02-01", "2024-02-02"],
         "not a date"),
        (['["a","b"]', "c", '["d"]'], None, "texts", [["a", "b"], ["c"], ["d"]], ""),
        (["a; b", "c", ""], "texts", "texts", [["a", "b"], ["c"], None], ""),
        (["1", "2", "3"], "text", "text", ["1", "2", "3"], ""),
        (["1", "2", "3"], "ignore", None, [None, None, None], ""),
        (["x" * 3000, "ok", "ok"], None, "text", [None, "ok", "ok"], "1 value is left out"),
    ],
)  # fmt: skip
def test_column_has_the_type_of_its_values_or_the_declared_one(
    values: list[str],
    declared: str | None,
    column_type: str | None,
    expected: list[object],
    note: str,
    tmp_path: Path,
) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg"]
    rows = "".join(
        f'{name},"{value.replace(chr(34), chr(34) * 2)}"\n' for name, value in zip(names, values, strict=True)
    )
    write(tmp_path, {name: name for name in names} | {"metadata.csv": f"file_name,X\n{rows}"})
    dataset = load(tmp_path, columns={"x": declared} if declared else {})
    assert dataset.columns.get("x") == column_type
    assert [dataset.images_by_id[name].columns.get("x") for name in names] == expected
    assert not dataset.invalid_records
    about_values = [text for text in dataset.notes if "column 'x'" in text or "is left out" in text]
    assert any(note in text for text in about_values) if note else not about_values


def test_json_values_keep_their_types_and_objects_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, {
        "a.jpg": "a", "b.jpg": "b",
        "a.json": json.dumps({"flag": True, "n": 3.0, "deep": {"x": 1}, "Camera Model": "K1", "width": 9, "nan": None,
                              "kind of": "test"}),
        "b.jpg.json": json.dumps({"flag": False, "n": "12", "deep": [[1]], "caption": "A dog."}),
    })  # fmt: skip
    dataset = load(tmp_path)
    assert dataset.columns == {"camera_model": "text", "flag": "text", "kind_of": "text", "n": "number"}
    assert dict(dataset.images_by_id["a.jpg"].columns) == {
        "flag": "true",
        "n": 3,
        "camera_model": "K1",
        "kind_of": "test",
    }
    assert dict(dataset.images_by_id["b.jpg"].columns) == {"flag": "false", "n": 12}
    assert [caption.text for caption in dataset.captions] == ["A dog."]
    assert any("'width' (the index has its own" in note for note in dataset.notes)
    assert any("column 'deep': 2 values are left out" in note for note in dataset.notes)


def test_captions_of_several_sources_are_joined_without_equal_ones(tmp_path: Path) -> None:
    write(tmp_path, {
        "a.jpg": "a", "a.txt": "A dog\nruns.\n",
        "a.json": json.dumps({"captions": ["A dog runs.", "Ein Hund."], "n": 2}),
        "metadata.jsonl": json.dumps({"file_name": "a.jpg", "text": "From the table.", "n": 1}),
    })  # fmt: skip
    dataset = load(tmp_path)
    assert [caption.text for caption in dataset.captions] == ["From the table.", "A dog runs.", "Ein Hund."]
    assert dataset.images_by_id["a.jpg"].columns == {"n": 1}


JPEG = draw_jpeg(0)
BAD_FILES: dict[str, tuple[dict[str, str | bytes], str, str]] = {
    # files beside a.jpg -> name of the invalid record, and its reason
    "row without an image": ({"metadata.csv": "file_name,caption\nb.jpg,x\n"}, "b.jpg", "no such file"),
    "row that leaves the folder": (
        {"metadata.csv": "file_name\n../b.jpg\n"},
        "../b.jpg",
        "leaves the folder of images",
    ),
    "row that leaves the folder of its table": (
        {"sub/metadata.csv": "file_name\n../a.jpg\n"},
        "../a.jpg at line 2 of metadata.csv",
        "leaves the folder of the table",
    ),
    "absolute path": ({"metadata.jsonl": '{"file_name": "/etc/hostname"}'}, "/etc/hostname", "leaves the folder"),
    "no file_name in a row": (
        {"metadata.jsonl": '{"text": "x"}'},
        "line 1 of metadata.jsonl",
        "the row has no text field `file_name`",
    ),
    "number as file_name": ({"metadata.jsonl": '{"file_name": 3}'}, "line 1 of metadata.jsonl", "`file_name`"),
    "line that is not JSON": (
        {"metadata.jsonl": '{"file_name": "a.jpg"'},
        "line 1 of metadata.jsonl",
        "not a JSON object",
    ),
    "key that occurs twice": (
        {"metadata.jsonl": '{"file_name": "a.jpg", "x": 1, "x": 2}'},
        "line 1 of metadata.jsonl",
        "twice",
    ),
    "contradicting splits": (
        {"metadata.csv": "file_name,split\na.jpg,train\na.jpg,test\n"},
        "a.jpg at line 2 of metadata.csv",
        "contradicts",
    ),
    "unknown split": ({"metadata.csv": "file_name,split\na.jpg,dev\n"}, "a.jpg", "unknown split 'dev'"),
    "caption that is a number": (
        {"metadata.jsonl": '{"file_name": "a.jpg", "text": 3}'},
        "a.jpg#0",
        "not a text but int",
    ),
    "JSON file that is a list": ({"a.json": "[1]"}, "a.json", "not a JSON object but list"),
    "JSON file that is cut": ({"a.json": '{"caption": "x'}, "a.json", "the file is not JSON"),
    "JSON file that is nested": ({"a.json": "[" * 100_000}, "a.json", "nested too deeply"),
    "JSON file with a misspelled split": ({"a.json": '{"spilt": "test"}'}, "a.jpg", "did you mean 'split'"),
    "text file that is not UTF-8": ({"a.txt": b"caf\xe9"}, "a.txt", "not UTF-8 text"),
    "text file that is huge": ({"a.txt": "x" * (1 << 21)}, "a.txt", "has more than 1,048,576 bytes"),
    "split of the JSON file contradicts the table": (
        {"metadata.csv": "file_name,split\na.jpg,train\n", "a.json": '{"split": "test"}'},
        "a.jpg",
        "contradicts 'train'",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_record_of_a_folder_is_invalid_and_the_others_are_kept(case: str, tmp_path: Path) -> None:
    files, name, reason = BAD_FILES[case]
    dataset = load(write(tmp_path, {"a.jpg": JPEG, "z.jpg": JPEG + b"z", **files}))
    assert "z.jpg" in dataset.images_by_id
    reasons = {record.name: record.reason for record in dataset.invalid_records}
    assert reason in reasons.get(name, "no such record"), reasons


BAD_TABLES: dict[str, tuple[dict[str, str | bytes], str]] = {
    "two tables": ({"metadata.csv": "file_name\na.jpg\n", "metadata.jsonl": "{}"}, "two tables of metadata"),
    "no column file_name": ({"metadata.csv": "name,caption\na.jpg,x\n"}, "must name the columns file_name"),
    "misspelled split": ({"metadata.csv": "file_name,spilt\na.jpg,test\n"}, "did you mean 'split'"),
    "split under another name": ({"metadata.csv": "file_name,set\na.jpg,test\n"}, "'set' has the value 'test'"),
    "open quotation mark": ({"metadata.csv": 'file_name,caption\na.jpg,"x\nz.jpg,y\n'}, "close"),
    "not UTF-8": ({"metadata.csv": b"file_name,caption\na.jpg,caf\xe9\n"}, "Save it as UTF-8"),
    "damaged Parquet file": ({"metadata.parquet": b"PAR1 no"}, "metadata.parquet cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_table_of_metadata_that_would_lose_its_meaning_is_an_error(case: str, tmp_path: Path) -> None:
    files, message = BAD_TABLES[case]
    with pytest.raises(ValueError, match="^(?s:.*)" + message):
        load(write(tmp_path, {"a.jpg": JPEG, **files}))
