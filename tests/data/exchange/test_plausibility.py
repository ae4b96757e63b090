"""Values that a file cannot mean give a warning; random and round features of the right type give none."""

import h5py
import numpy as np
import pytest

from data.config import ImportConfig
from data.exchange.plausibility import guess_number_type
from data.exchange.region_import import import_regions
from data.store.store import Store
from tests.helpers.region_files import b64, line

RNG = np.random.default_rng(0)
FEATURES = {
    "constant": np.full((3, 8), 1.5),
    "normal": RNG.normal(size=(36, 64)),
    "sparse": np.maximum(RNG.normal(size=(36, 64)), 0),
    "float32 values": RNG.normal(size=(36, 64)).astype("f4"),
    "large": RNG.random((36, 64)) * 900,
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize(("dtype", "expected"), [("<f4", ""), ("<f8", "float64"), ("<f2", "float16")])
def test_number_type_of_bytes_is_guessed(name, dtype, expected):
    values = np.frombuffer(FEATURES[name].astype(dtype).tobytes(), "<f4").reshape(len(FEATURES[name]), -1)
    assert guess_number_type(values) == expected


@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "i1"])
def test_float32_features_that_were_rounded_before_are_float32(dtype):
    values = np.abs(RNG.normal(size=(36, 64))).astype("f4")
    if dtype == "bfloat16":
        rounded = (values.view("<u4") & 0xFFFF0000).view("<f4")
    else:
        rounded = (values * (40 if dtype == "i1" else 1)).astype(dtype).astype("f4")
    assert guess_number_type(rounded) == ""


def run_import(path, **options):
    return import_regions(ImportConfig(sources=(path,), **options), path.parent / "out")


@pytest.mark.parametrize("sparsity", [0.0, 0.6, 0.98])
@pytest.mark.parametrize("seed", range(5))
def test_half_precision_stored_as_float32_is_float32(sparsity, seed):
    """`tern store export` writes the float16 features of a detector, most of them 0, as float32."""
    generator = np.random.default_rng(seed)
    values = np.maximum(generator.normal(size=(6, 256)), 0) * (generator.random((6, 256)) >= sparsity)
    half = values.astype("f2").astype("f4")
    assert guess_number_type(half) == ""
    assert guess_number_type((half.view("u4") & 0xFFFF0000).view("f4")) == "", "bfloat16"


@pytest.mark.parametrize("dtype", ["f8", "f2"])
def test_import_warns_of_tsv_features_of_another_number_type(dtype, tmp_path):
    cell, boxes = b64(np.full((2, 8), 1.5), dtype), b64([[0, 0, 9, 9]] * 2, "f4")
    (tmp_path / "x.tsv").write_text(line("a", features=b64(np.full((2, 8), 1.5), "f4"), boxes=boxes) + "\n")
    assert run_import(tmp_path / "x.tsv").warnings == ()
    lines = [line(name, features=cell, boxes=boxes) for name in "ab"]
    (tmp_path / "y.tsv").write_text("\n".join(lines) + "\n")
    (warning,) = run_import(tmp_path / "y.tsv").warnings
    assert warning.startswith("y.tsv line 1 and 1 more: the features do not look like float32")
    assert f"float{int(dtype[1]) * 8}" in warning


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0.1, 0.1, 0.5, 0.9]] * 2, "boxes lie between 0 and 1"),
        ([[30, 20, 10, 20]] * 2, "boxes end before they begin: they may be x, y, width, height"),
        ([[0, 0, 39, 49]] * 2, "boxes leave the image; they fit if width and height are exchanged"),
        ([[0, 0, 500, 10]] * 2, "boxes leave the image"),
        ([[-40, 0, 10, 10]] * 2, "boxes leave the image"),
        ([[0, 0, 50, 40]] * 2, ""),
        ([[-0.5, 0, 50.5, 40.4]] * 2, ""),
    ],
)
def test_import_warns_of_boxes_that_cannot_be_pixels_of_the_image(boxes, message, tmp_path):
    (tmp_path / "x.tsv").write_text(line("a", boxes=b64(boxes, "f4")) + "\n")  # 50 wide, 40 high
    warnings = run_import(tmp_path / "x.tsv").warnings
    assert [text.startswith(f"x.tsv line 1: {message}") for text in warnings] == [True] * bool(message)


def test_import_warns_of_integers_zeros_and_scores(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["image_features"] = np.zeros((2, 3, 4), "i1")
        file["image_bb"] = np.tile(np.float32([0, 0, 9, 9]), (2, 3, 1))
        file["spatial_features"] = np.tile(np.float32([0, 0, 1, 1, 1, 1]), (2, 3, 1))
    (tmp_path / "x_imgid2idx.json").write_text('{"a": 0, "b": 1}')
    assert run_import(tmp_path / "x.hdf5").warnings == (
        "x.hdf5 row 0 and 1 more: all features are 0",
        "x.hdf5 row 0 and 1 more: the features are int8; they are stored as these whole numbers, without a scale",
    )
    (tmp_path / "x.tsv").write_text(line("a", conf=b64([50, 90], "f4"), boxes=b64([[0, 0, 9, 9]] * 2, "f4")) + "\n")
    assert run_import(tmp_path / "x.tsv").warnings == ("x.tsv line 1: the scores are not between 0 and 1",)


def test_import_with_one_odd_first_record_keeps_the_others(tmp_path):
    odd = line("odd", features=b64(np.ones((2, 5)), "f4"))
    (tmp_path / "x.tsv").write_text("\n".join([odd, *(line(str(i)) for i in range(6))]) + "\n")
    made = run_import(tmp_path / "x.tsv")
    assert made.num_imported == 6
    assert made.invalid_records == (
        ("odd (x.tsv line 1)", "its features have dimension 5, but those of earlier images have 3"),
    )


def test_ids_in_python_notation_of_bytes_are_their_text(tmp_path):
    (tmp_path / "x.tsv").write_text(f"{line(repr(b'im1'))}\n{line(repr('é'.encode()))}\n{line('b')}\n")
    assert Store(run_import(tmp_path / "x.tsv").folder).ids == ["im1", "é", "b"]


def test_flat_npz_with_names_as_bytes_has_their_text(tmp_path):
    arrays = {"offset": np.arange(4), "size": np.full((3, 2), 9), "boxes": np.ones((3, 4), "f4")}
    arrays |= {"score": np.array([0.5, np.nan, np.inf], "f4"), "cls": np.ones(3, "i4"), "feat": np.ones((3, 4), "f4")}
    np.savez(tmp_path / "x.npz", filename=np.array([b"a.jpg", "é.jpg".encode(), b"c.jpg"]), **arrays)
    made = run_import(tmp_path / "x.npz")
    assert Store(made.folder).ids == ["a.jpg", "é.jpg"]
    assert made.invalid_records == (("c.jpg (x.npz entry 2)", "its scores are not finite as float32"),)
    np.savez(tmp_path / "y.npz", filename=np.array([b"\xff", b"b", b"c"]), **arrays)
    name, reason = run_import(tmp_path / "y.npz").invalid_records[0]
    assert (name, reason.startswith("the id b'\\xff' is not UTF-8")) == ("y.npz entry 0", True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 0, "b": 0}', "the sidecar file gives the same row to 'a'"),
        ('{"a": 0, "a": 1}', "the key 'a' occurs twice"),
        ('{"a": 0, "b": 1.5}', "not a dict of image id -> row: 'b' has the row 1.5"),
        ('{"a": 0, "b": true}', "'b' has the row True"),
    ],
)
def test_sidecar_that_contradicts_itself_is_named(content, message, tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["image_features"], file["image_bb"] = np.ones((2, 3, 4), "f4"), np.ones((2, 3, 4), "f4")
        file["spatial_features"] = np.ones((2, 3, 6), "f4")
    (tmp_path / "x_imgid2idx.json").write_text(content)
    try:
        said = str(run_import(tmp_path / "x.hdf5").invalid_records)
    except ValueError as error:
        said = str(error)
    assert message in said.replace('\\"', '"').replace("\\'", "'")
