"""Datasets in their published formats, and a table of invalid records with their reasons."""

import json
from pathlib import Path

import pytest

from data.config import DatasetConfig
from data.datasets.load import load_dataset


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "b.c.jpg", "val2014/d.jpg", "é f.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"jpeg")
    (tmp_path / "secret.jpg").write_bytes(b"jpeg")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    return folder


def karpathy(photos: Path, *records: dict) -> DatasetConfig:
    path = photos.parent / "dataset.json"
    path.write_text(json.dumps({"images": list(records), "dataset": "x"}))
    return DatasetConfig(name="x", annotations=path, images=photos)


def record(filename="a.jpg", split="train", texts=("a dog",), **more) -> dict:
    return {"filename": filename, "split": split, "sentences": [{"raw": t} for t in texts], **more}


def test_karpathy_file_gives_splits_folders_and_captions(photos):
    coco = record("d.jpg", "restval", ["one"], filepath="val2014", cocoid=7)
    tokens = {"filename": "b.c.jpg", "split": "test", "sentences": [{"tokens": ["two", "cats"]}] * 7}
    found = load_dataset(karpathy(photos, record(texts=("a  dog\n", "two dogs")), coco, tokens))
    assert found.count_images_by_split() == {"train": 2, "test": 1}
    assert [c.text for c in found.captions_by_image_id["a.jpg"]] == ["a dog", "two dogs"]
    assert found.images_by_id["d.jpg"].path == photos / "val2014" / "d.jpg"
    assert [c.id for c in found.captions_by_image_id["b.c.jpg"]] == [f"b.c.jpg#{k}" for k in range(7)]
    assert found.select_split("test").image_id_by_caption_id == {f"b.c.jpg#{k}": "b.c.jpg" for k in range(7)}
    assert found.invalid_records == ()
    with pytest.raises(ValueError, match="has no image in split 'val'"):
        found.select_split("val")


@pytest.mark.parametrize(
    ("bad", "name", "reason"),
    [
        (record("gone.jpg"), "gone.jpg", "no such file"),
        (record("a.jpg", texts=("again",)), "a.jpg", "duplicate id"),
        (record("../secret.jpg"), "../secret.jpg", "leaves the folder"),
        (record("secret.jpg", filepath=".."), "secret.jpg", "leaves the folder"),
        (record("link.jpg"), "link.jpg", "leaves the folder"),
        (record("nul\0.jpg"), "nul", "cannot be used"),
        (record("b.c.jpg", split="dev"), "b.c.jpg", "unknown split 'dev'"),
        (record("b.c.jpg", texts=("fine", "  ")), "b.c.jpg#1", "the caption is empty"),
        (record("b.c.jpg", texts=("fine", 5)), "b.c.jpg#1", "not a text but int"),
        (record("b.c.jpg", texts=("fine", "x" * 3000)), "b.c.jpg#1", "3,000 characters"),
        (record("b.c.jpg", texts=("fine", None)), "b.c.jpg#1", "not a text"),
        (record("b.c.jpg", texts=("fine", "\u200b\u202e\0 ")), "b.c.jpg#1", "the caption is empty"),
        (record("b.c.jpg", texts=("fine", "a dog \ud83d")), "b.c.jpg#1", "lone surrogate"),
        (record("b\udcff.jpg"), "b\\udcff.jpg", "its name is not UTF-8"),
        (record("e\u0301 f.jpg"), "e\u0301 f.jpg", "spelled in the NFC form of Unicode"),
        (record("/etc/passwd"), "/etc/passwd", "leaves the folder"),
        (record("val2014"), "val2014", "a folder, not a file"),
        (record("n" * 300), "n" * 300, "File name too long"),
        (record("loop.jpg"), "loop.jpg", "loop"),
        (record(17), "17", "not a text"),
        ({"split": "train", "sentences": []}, "images[1]", "lacks 'filename'"),
        ({"filename": "b.c.jpg", "split": "train"}, "images[1]", "lacks 'sentences'"),
        ("what", "images[1]", "lacks"),
    ],
)
def test_invalid_records_are_listed_and_valid_ones_are_kept(photos, bad, name, reason):
    found = load_dataset(karpathy(photos, record(), bad))
    assert [(r.name.startswith(name), reason in r.reason) for r in found.invalid_records] == [(True, True)], (
        found.invalid_records
    )
    assert found.captions_by_image_id["a.jpg"][0].text == "a dog"


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "no list `images`"), ('{"images": []}', "none of its 0 images")],
)
def test_load_dataset_rejects_a_file_that_is_not_a_dataset(photos, text, message):
    config = karpathy(photos)
    config.annotations.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_dataset(config)


def test_load_dataset_names_the_setting_of_a_missing_file(photos):
    config = karpathy(photos, record())
    with pytest.raises(FileNotFoundError, match="set `images`"):
        load_dataset(config.model_copy(update={"images": photos / "none"}))
    with pytest.raises(FileNotFoundError, match="set `annotations`"):
        load_dataset(config.model_copy(update={"annotations": photos / "none"}))


SENTENCES = [
    ({"raw": "a dog"}, "a dog"),
    ({"raw": None, "tokens": ["a", "dog"]}, "a dog"),
    ("a dog", "a dog"),
    (None, "the sentence is null"),
    ({}, "neither `raw` nor `tokens`"),
    ({"tokens": ["a", 2]}, "the `tokens` of the sentence are not texts"),
    ({"tokens": "a dog"}, "neither `raw` nor `tokens`"),
    ({"raw": None}, "not a text but null"),
    ({"raw": ["a"]}, "not a text but list"),
    (["a dog"], "the sentence is a list"),
    (7, "the sentence is a int"),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES, ids=str)
def test_karpathy_sentence_is_read_or_is_one_invalid_caption(photos, sentence, expected):
    """An odd sentence never costs its image the split or the other sentences."""
    sentences = [{"raw": "first"}, sentence, {"raw": "third"}]
    found = load_dataset(karpathy(photos, {"filename": "a.jpg", "split": "test", "sentences": sentences}))
    captions = {caption.id: caption.text for caption in found.captions}
    if expected == "a dog":
        assert (captions.pop("a.jpg#1"), found.invalid_records) == ("a dog", ())
    else:
        assert [(r.name, expected in r.reason) for r in found.invalid_records] == [("a.jpg#1", True)]
    assert captions == {"a.jpg#0": "first", "a.jpg#2": "third"}
    assert found.images_by_id["a.jpg"].split == "test"


def test_karpathy_images_of_one_name_in_two_folders_are_two_images(photos):
    for folder in ("x", "y"):
        (photos / folder).mkdir()
        (photos / folder / "1.jpg").write_bytes(b"jpeg")
    one, two = (record("1.jpg", split, [split], filepath=path) for split, path in (("train", "x"), ("test", "y")))
    found = load_dataset(
        karpathy(photos, one, two, record("d.jpg", filepath="val2014"), record("./1.jpg", filepath="x"))
    )
    assert {i.id: i.split for i in found.images} == {"x/1.jpg": "train", "y/1.jpg": "test", "d.jpg": "train"}
    assert [(r.name, r.reason) for r in found.invalid_records] == [
        ("x/1.jpg", "duplicate id: an earlier image has this name")
    ]


@pytest.mark.parametrize("splits", [("train", "test"), ("test", "train")])
def test_karpathy_image_with_two_splits_is_invalid(photos, splits):
    found = load_dataset(karpathy(photos, *(record("a.jpg", split) for split in splits), record("b.c.jpg")))
    assert [image.id for image in found.images] == ["b.c.jpg"]
    assert [r.name for r in found.invalid_records] == [f"a.jpg at images[{k}] of dataset.json" for k in range(2)]
    assert all("contradicts" in r.reason for r in found.invalid_records)


def test_karpathy_record_without_sentences_keeps_its_image(photos):
    found = load_dataset(karpathy(photos, record(), {"filename": "b.c.jpg", "split": "test"}))
    assert found.images_by_id["b.c.jpg"].split == "test"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"filename": "a.jpg", "imgid": ' + "9" * 5000 + "}]}", "a number has more than 4,300 digits"),
        (
            '{"images": [{"filename": "a.jpg", "split": "test", "split": "train"}]}',
            "the key 'split' occurs twice.*a.jpg",
        ),
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        ('{"images": [{"file_name": "a.jpg", "id": 1}], "annotations": []}', "a file of COCO"),
    ],
    ids=lambda text: text[:30],
)
def test_karpathy_file_that_cannot_be_read_is_named_on_one_line(photos, text, message):
    config = karpathy(photos)
    config.annotations.write_text(text)
    with pytest.raises(ValueError, match=rf"dataset\.json .*{message}") as error:
        load_dataset(config)
    assert "set_int_max_str_digits" not in str(error.value)


@pytest.mark.parametrize("name", ["two\nlines.jpg", "a\ttab.jpg", "\u202egpj.exe.jpg", "\x1b[2J.jpg", "x\x85.jpg"])
def test_name_that_no_id_can_have_is_invalid_from_the_start(photos, name):
    """Imports, exports and the index reject such ids: a file with this name would block them."""
    (photos / name).write_bytes(b"jpeg")
    found = load_dataset(karpathy(photos, record(), record(name)))
    assert [image.id for image in found.images] == ["a.jpg"]
    assert [(r.name, "control character" in r.reason, "rename" in r.reason) for r in found.invalid_records] == [
        (name, True, True)
    ]


CSV = """image,caption,split
a.jpg,"a dog, running",train
a.jpg,two dogs,train
b.c.jpg,,test
./b.c.jpg,a cat,test
b.c.jpg,a cow,val
"""
JSONL = "\n".join(
    [
        json.dumps({"image": "a.jpg", "captions": ["a dog, running", "two dogs"], "split": "train"}),
        json.dumps({"image": "b.c.jpg", "caption": "", "split": "test"}),
        "{broken",
        json.dumps({"image": "./b.c.jpg", "caption": "a cat", "split": "test"}),
        json.dumps({"image": "b.c.jpg", "caption": "a cow", "split": "val"}),
    ]
)


@pytest.mark.parametrize(("name", "text"), [("captions.csv", CSV), ("captions.jsonl", JSONL)])
def test_captions_file_gives_images_captions_and_invalid_records(photos, name, text):
    path = photos.parent / name
    path.write_text(text)
    found = load_dataset(DatasetConfig(name="mine", format="folder", annotations=path, images=photos))
    assert [c.text for c in found.captions_by_image_id["a.jpg"]] == ["a dog, running", "two dogs"]
    assert [c.text for c in found.captions_by_image_id["b.c.jpg"]] == ["a cat"]
    assert found.images_by_id["b.c.jpg"].split == "test"
    reasons = {r.name: r.reason for r in found.invalid_records}
    assert "empty" in reasons["b.c.jpg#0"]
    assert "contradicts" in next(reasons[k] for k in reasons if k.startswith("b.c.jpg at"))
    assert "leaves" in reasons["link.jpg"]
    assert ("line 3 of captions.jsonl" in reasons) == name.endswith("jsonl")
    assert found.captions_by_image_id["é f.jpg"] == (), "an image without a caption can still be found"


def test_caption_with_an_unquoted_comma_is_invalid(photos):
    path = photos.parent / "c.csv"
    path.write_text("image,caption\na.jpg,two dogs, one cat\na.jpg,a cow\n")
    found = load_dataset(DatasetConfig(name="mine", format="folder", annotations=path, images=photos))
    assert [c.text for c in found.captions_by_image_id["a.jpg"]] == ["a cow"]
    assert [r.reason for r in found.invalid_records if r.name == "a.jpg at line 2 of c.csv"] == [
        "the row has more fields than the first line has columns; put captions with commas into quotes"
    ]
    path.write_bytes("image,caption\na.jpg,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"c\.csv cannot be read: .*Save it as UTF-8"):
        load_dataset(DatasetConfig(name="mine", format="folder", annotations=path, images=photos))


def test_captions_file_without_required_columns_raises(photos):
    for name, text, message in [
        ("c.csv", "file,text\n", "must name the columns"),
        ("c.txt", "a", r"c\.txt is not a captions file.*ends in \.jsonl, \.csv or \.parquet"),
    ]:
        path = photos.parent / name
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_dataset(DatasetConfig(name="m", format="folder", annotations=path, images=photos))


def test_caption_with_nul_is_one_invalid_caption(photos):
    """SQLite's `like` ends a text at NUL, and its `=` does not."""
    found = load_dataset(karpathy(photos, record(texts=("a dog", "dog\0 cat"))))
    assert [c.text for c in found.captions] == ["a dog"]
    assert [(r.name, r.reason) for r in found.invalid_records] == [
        ("a.jpg#1", "the caption contains the character NUL")
    ]
