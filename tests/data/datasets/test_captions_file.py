"""Captions files as spreadsheets, scripts and people write them: read rightly, or named by file and line."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import DatasetConfig
from data.datasets import Dataset, load_dataset
from data.text import read_lines

NAMES = [f"{letter}.jpg" for letter in "abcdef"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        (tmp_path / "photos" / name).write_bytes(b"jpeg")
    return tmp_path / "photos"


def load(photos: Path, content: str | bytes, name: str = "c.csv") -> Dataset:
    path = photos.parent / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_dataset(DatasetConfig(name="mine", format="folder", annotations=path, images=photos))


def read_back(dataset: Dataset) -> dict[str, tuple[str, list[str]]]:
    """Split and captions of the images that have captions."""
    captions = dataset.captions_by_image_id
    return {i.id: (i.split, [c.text for c in captions[i.id]]) for i in dataset.images if captions[i.id]}


def reasons(dataset: Dataset) -> dict[str, str]:
    return {record.name: record.reason for record in dataset.invalid_records}


A_TEST_B_VAL = {"a.jpg": ("test", ["a dog"]), "b.jpg": ("val", ["a cat"])}
PLAIN = "image,caption,split\na.jpg,a dog,test\nb.jpg,a cat,val\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (PLAIN, "c.csv"),
        ("\ufeff" + PLAIN, "c.csv"),
        ("\ufeff\ufeff" + PLAIN, "c.csv"),
        ("\n\r\n  \n" + PLAIN, "c.csv"),
        (PLAIN.replace("\n", "\n\n"), "c.csv"),
        (PLAIN + ",,\n , ,\n", "c.csv"),
        (PLAIN.replace("\n", "\r\n"), "c.csv"),
        (PLAIN.replace("\n", "\r"), "c.csv"),
        (PLAIN.removesuffix("\n"), "c.csv"),
        (PLAIN.encode("utf-16"), "c.csv"),
        ("\ufeff".encode("utf-16-be") + PLAIN.encode("utf-16-be"), "c.csv"),
        (PLAIN.encode("utf-32"), "c.csv"),
        (PLAIN.replace(",", "\t").encode("utf-16"), "c.csv"),
        (PLAIN.replace(",", "\t"), "C.TSV"),
        (PLAIN.replace(",", ";"), "c.csv"),
        (PLAIN.replace(",", "|"), "c.csv"),
        ("sep=,\n" + PLAIN, "c.csv"),
        ("\ufeffsep=;\r\n" + PLAIN.replace(",", ";"), "c.csv"),
        ("sep=\t\n" + PLAIN.replace(",", "\t"), "c.csv"),
        (PLAIN.replace(",", ", "), "c.csv"),
        (PLAIN.replace(",", " , ").replace("\n", " \n"), "c.csv"),
        (PLAIN.replace(",", '", "').replace("\n", '"\n"').removesuffix('"').join(('"', "")), "c.csv"),
        (PLAIN.replace("image,caption,split", "Image,CAPTION,Split"), "c.csv"),
        (PLAIN.replace("image,caption,split", '"image","caption","split"'), "c.csv"),
        (PLAIN.replace("caption", "captions"), "c.csv"),
        ("split,image,x,caption,\ntest,a.jpg,1,a dog,\nval,b.jpg,2,a cat,\n", "c.csv"),
        ('{"image": "a.jpg", "caption": "a dog", "split": "test"}\n{"Image": "b.jpg", "captions": "a cat", "split": '
         '"val"}', "c.jsonl"),
        ('\ufeff\n{"image": "a.jpg", "captions": ["a dog"], "split": "test"}\r\r\n{"image": "b.jpg", "caption": '
         '"a cat", "SPLIT": "val", "n": 1e999}', "c.ndjson"),
        ('{"image": "a.jpg", "caption": "a dog", "split": "test"}\n{"image": "b.jpg", "caption": "a cat", '
         '"split": "val"}'.encode("utf-16"), "c.jsonl"),
    ],
)  # fmt: skip
def test_captions_file_is_read_in_every_layout(photos: Path, content: str | bytes, name: str) -> None:
    assert read_back(load(photos, content, name)) == A_TEST_B_VAL


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'image,caption,split\na.jpg,"a dog runs,train\nb.jpg,a cat,test\nd.jpg,a "big" horse,test\n',
            "line 2: .*close",
        ),
        ('image,caption,split\na.jpg,a dog,train\nb.jpg,"a cat,test\nc.jpg,a bird,val\n', "line 3: .*close"),
        ('image,caption,split\r\na.jpg,"one\r\ntwo","three,test\r\nc.jpg,a bird,val\r\n', "line 3: .*close"),
        ('image,caption,split\ra.jpg,a dog,train\rb.jpg,"a cat,test\rc.jpg,a bird,val\r', "line 3: .*close"),
        ('image,caption,split\na.jpg,"a dog,test\nb.jpg,a cat",train\n', "line 2: .*close"),
        ('image,caption,split\na.jpg,"a \\"big\\" dog",test\n', "line 2: .*close"),
        ('image;caption\na.jpg;"a dog" runs\n', "line 2: .*close"),
        ('image,caption\na.jpg,"' + "x" * 200_000 + "\n", "line 2: .*close"),
        ("image,caption,split,split\na.jpg,a dog,test,train\n", "line 1: the field 'split' occurs twice"),
        ("image,caption,split,Split \na.jpg,a dog,test,train\n", "'split' occurs twice"),
        ("image,caption,spilt\na.jpg,a dog,test\n", "line 1: .*'spilt' is unknown; did you mean 'split'"),
        ("image,caption,data_split\na.jpg,a dog,test\n", "'data_split' is unknown; did you mean 'split'"),
        ("image,caption,set\na.jpg,a dog,train\nb.jpg,a cat,test\n", "line 3: .*'set' has the value 'test'"),
        ("image,text,split\na.jpg,a dog,test\n", "does not name caption; its columns are 'image', 'text', 'split'"),
        ("img,caption\na.jpg,a dog\n", "does not name image"),
        ("", "no line with the names of the columns"),
        ("\n\n", "no line with the names of the columns"),
        ('{"image": "a.jpg", "text": "a dog"}', "no field of captions; its fields are image, text"),
        (PLAIN.encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (PLAIN.encode() + b"c.jpg,caf\xe9,test\n", "cannot be read: .*line 4.*Save it as UTF-8"),
        (PLAIN.encode("utf-16")[:-1], "cannot be read: .*Save it as UTF-8"),
    ],
)
def test_captions_file_that_would_lose_its_meaning_is_an_error(
    photos: Path, content: str | bytes, message: str
) -> None:
    name = "c.jsonl" if str(content).startswith("{") else "c.csv"
    with pytest.raises(ValueError, match=rf"(?s){name.replace('.', '[.]')}.*{message}") as error:
        load(photos, content, name)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("row", "record", "reason"),
    [
        ("a.jpg,two dogs, one cat,test", "a.jpg at line 2 of c.csv", "more fields"),
        ("a.jpg,a dog", "a.jpg at line 2 of c.csv", "fewer fields"),
        ("a.jpg", "a.jpg at line 2 of c.csv", "fewer fields"),
        (",a dog,test", "line 2 of c.csv", "no text field `image`"),
        ("a.jpg," + "x" * 200_000 + ",test", "line 2 of c.csv", "larger than field limit"),
        ("a.jpg,,test", "a.jpg#0", "the caption is empty"),
        ("a.jpg,a dog, test", "a.jpg", "unknown split ' test'"),
        ("a\0.jpg,a dog,test", "a\0.jpg", "cannot be used"),
        ('"a\n.jpg",a dog,test', "a\n.jpg", "no such file"),
        ("{", "line 1 of c.jsonl", "not a JSON object: Expecting"),
        ('{"image": "a.jpg", "caption": "a dog", "n": ' + "9" * 5000 + "}", "line 1 of c.jsonl", "4,300 digits"),
        ('{"image": "a.jpg", "caption": "a dog", "n": ' + "[" * 100_000 + "}", "line 1 of c.jsonl", "nested too deep"),
        ('{"image": "a.jpg", "caption": "a dog", "split": "test", "split": "train"}', "line 1 of c.jsonl",
         "the key 'split' occurs twice"),
        ('{"image": "a.jpg", "caption": "x", "split": "test", "Split": "train"}', "a.jpg at line 1 of c.jsonl",
         "the field 'split' occurs twice"),
        ('{"image": "a.jpg", "caption": "a dog", "spilt": "test"}', "a.jpg at line 1 of c.jsonl", "mean 'split'"),
        ('{"image": "a.jpg", "caption": "a dog", "set": "test"}', "a.jpg at line 1 of c.jsonl", "'set' has the value"),
        ('["a.jpg", "a dog"]', "line 1 of c.jsonl", "no text field `image`"),
        ('{"image": ["a.jpg"], "caption": "a dog"}', "line 1 of c.jsonl", "no text field `image`"),
        ('{"image": "a.jpg", "caption": 17}', "a.jpg#0", "not a text but int"),
        ('{"image": "a.jpg", "caption": null}', "a.jpg#0", "null"),
        ('{"image": "a.jpg", "captions": ["a dog", ["a"]]}', "a.jpg#1", "not a text but list"),
        ('{"image": "a.jpg", "captions": {"0": "a dog"}}', "a.jpg#0", "not a text but dict"),
        ('{"image": "a.jpg"}', "a.jpg#0", "no field `caption`"),
        ('{"image": "a.jpg", "caption": "a dog", "split": 0}', "a.jpg", "unknown split 0"),
        ('{"image": "a.jpg", "caption": "a dog", "split": false}', "a.jpg", "unknown split False"),
        ('{"image": "a.jpg", "caption": "a dog", "split": ["test"]}', "a.jpg", "unknown split"),
        ('{"image": "a.jpg", "caption": "' + "x" * (1 << 24) + '"}', "line 1 of c.jsonl", "too long"),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_odd_row_is_an_invalid_record_and_the_others_are_kept(photos: Path, row: str, record: str, reason: str) -> None:
    is_json = row[0] in "{["
    other = '{"image": "b.jpg", "caption": "a cat", "split": "val"}' if is_json else "b.jpg,a cat,val"
    lines = [row, other] if is_json else ["image,caption,split", row, other]
    found = load(photos, "\n".join(lines), "c.jsonl" if is_json else "c.csv")
    assert [(name, reason in text) for name, text in reasons(found).items()] == [(record, True)], reasons(found)
    assert read_back(found)["b.jpg"] == ("val", ["a cat"])
    if record == "a.jpg at line 1 of c.jsonl":
        assert "a.jpg" not in found.images_by_id, "no split may be drawn for it"


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(
    ("rows", "split", "texts", "invalid"),
    [
        ([("one", ""), ("two", "test")], "test", {"one", "two"}, 0),
        ([("one", "val"), ("two", ""), ("three", "val")], "val", {"one", "two", "three"}, 0),
        ([("one", "train"), ("two", "test"), ("three", "")], "test", {"two", "three"}, 1),
        ([("one", "train"), ("two", "val")], "val", {"two"}, 1),
        ([("one", "train"), ("two", "dev")], None, set(), 2),
    ],
)
def test_split_does_not_depend_on_the_order_of_rows(photos: Path, rows, split, texts, invalid, is_reversed) -> None:
    lines = [f"a.jpg,{text},{name}\n" for text, name in rows]
    found = load(photos, "image,caption,split\n" + "".join(lines[::-1] if is_reversed else lines))
    assert (found.images_by_id["a.jpg"].split if split else "a.jpg" not in found.images_by_id) == (split or True)
    assert {caption.text for caption in found.captions} == texts
    assert len(found.invalid_records) == invalid


def test_quoted_text_with_line_breaks_and_marks_is_one_caption(photos: Path) -> None:
    text = 'image,caption,split\na.jpg,"a dog\nruns, ""fast""",test\nb.jpg,a "big" horse,val\nc.jpg,"",train\n'
    found = read_back(load(photos, text + 'd.jpg,"two\nlines.jpg","val"\n'))
    expected = {"a.jpg": ("test", ['a dog runs, "fast"']), "b.jpg": ("val", ['a "big" horse'])}
    assert found == expected | {"d.jpg": ("val", ["two lines.jpg"])}


def test_absolute_and_dotted_paths_name_the_same_image(photos: Path) -> None:
    rows = [f"{photos.absolute()}/a.jpg,one,test", "./a.jpg,two,", "x/../a.jpg,three,test"]
    found = load(photos, "image,caption,split\n" + "\n".join(rows))
    assert read_back(found) == {"a.jpg": ("test", ["one", "two", "three"])}
    assert [image.id for image in found.images].count("a.jpg") == 1
    assert len(found.images) == len(NAMES)


def test_columns_and_ignored_files_are_noted_once(photos: Path) -> None:
    for name in ("d.dng", "e.jpg_large", "f.JPG~", "m", ".DS_Store", "Thumbs.db", "g.MPO"):
        (photos / name).write_bytes(b"x")
    path = photos / "captions.csv"
    path.write_text("image,caption,photographer,image_id\na.jpg,a dog,Ann,1\nb.jpg,a cat,Bob,2\n")
    found = load_dataset(DatasetConfig(name="mine", format="folder", annotations=path, images=photos))
    assert "columns: photographer (text)" in found.notes
    assert any("'image_id' (the index has its own" in note for note in found.notes)
    assert any("Ignored 3 files" in note and note.endswith("e.jpg_large, f.JPG~, m") for note in found.notes)
    assert reasons(found) == {"d.dng": "files of the format .dng cannot be read; convert it to JPEG, PNG or TIFF"}
    assert "g.MPO" in found.images_by_id


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Z")), min_size=1), max_size=6),
    breaks=st.lists(st.sampled_from(["\n", "\r\n", ",", ";", '"', "\t", " "]), min_size=6, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_captions_file_reads_what_csv_writes(photos, texts, breaks, delimiter, end, encoding, quoting) -> None:
    """Python's writer is the reference: whatever it writes by RFC 4180 is read back."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    captions = [f"x{text}{mark}{text}" for text, mark in zip(texts, breaks, strict=False)]
    writer.writerows([["image", "caption", "split"], *(["a.jpg", text, "test"] for text in captions)])
    found = load(photos, file.getvalue().encode(encoding))
    expected = [" ".join(text.split()) for text in captions]
    assert read_back(found) == ({"a.jpg": ("test", expected)} if expected else {})
    assert found.invalid_records == ()


def test_karpathy_and_folder_name_the_other_format(photos: Path) -> None:
    path = photos.parent / "c.jsonl"
    path.write_text("{}")
    with pytest.raises(ValueError, match='format = "folder"'):
        load_dataset(DatasetConfig(name="x", format="karpathy", annotations=path, images=photos))
    with pytest.raises(ValueError, match='format = "karpathy"'):
        load(photos, json.dumps({"images": []}), "c.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read_lines_reads_lists_of_every_editor(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "classes.txt").write_bytes(f"dog{end}café{end}".encode(encoding))
    assert read_lines(tmp_path / "classes.txt") == ["dog", "café"]
