"""Calibration queries of a model: they come back as they were written, and damaged files are named."""

import json
import struct

import numpy as np
import pytest

from tern.card import CALIBRATION
from tern.query.calibration import (
    MAX_QUERIES,
    Calibration,
    CalibrationQueries,
    read_calibration,
    select_by_hash,
    write_calibration,
)


def make_queries(kind: str, n: int, e: int = 8) -> CalibrationQueries:
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=(n, e)).astype(np.float16).astype(np.float32)
    scores = rng.uniform(-1, 1, size=(2, n)).astype(np.float32)
    return CalibrationQueries(tuple(f"{kind} {i} é \n" for i in range(n)), vectors, *scores)


@pytest.fixture
def folder(tmp_path):
    write_calibration(tmp_path, Calibration("val", 7, 35, make_queries("caption", 5), make_queries("image", 3)))
    return tmp_path


def test_calibration_is_read_back_as_written(folder):
    found = read_calibration(folder)
    assert found is not None
    assert (found.split, found.num_images, found.num_captions) == ("val", 7, 35)
    for kind, n in (("caption", 5), ("image", 3)):
        queries, expected = found.get(kind), make_queries(kind, n)
        assert queries.texts == expected.texts
        assert len(queries) == n
        for name in ("vectors", "relevant_scores", "best_other_scores"):
            assert getattr(queries, name).dtype == np.float32
            np.testing.assert_array_equal(getattr(queries, name), getattr(expected, name))


def test_equal_calibrations_give_equal_bytes(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    calibration = read_calibration(folder)
    assert calibration is not None
    write_calibration(other, calibration)
    assert (other / CALIBRATION).read_bytes() == (folder / CALIBRATION).read_bytes()


def test_model_without_calibration_has_none(tmp_path):
    assert read_calibration(tmp_path) is None


def edit_header(path, change) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def edit_entry(path, **values) -> None:
    def change(header) -> None:
        entry = json.loads(header["__metadata__"]["calibration"]) | values
        header["__metadata__"]["calibration"] = json.dumps(entry)

    edit_header(path, change)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "huge header": lambda path: path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}"),
    "other schema": lambda path: edit_entry(path, schema=3),
    "no metadata": lambda path: edit_header(path, lambda header: header.pop("__metadata__")),
    "metadata is no JSON": lambda path: edit_header(path, lambda h: h["__metadata__"].update(calibration="[")),
    "metadata is no object": lambda path: edit_header(path, lambda h: h["__metadata__"].update(calibration="[]")),
    "texts are no list": lambda path: edit_entry(path, caption_texts={"a": 1}),
    "texts are numbers": lambda path: edit_entry(path, image_texts=[1, 2, 3]),
    "fewer texts": lambda path: edit_entry(path, caption_texts=["one"]),
    "an array is missing": lambda path: edit_header(path, lambda h: h.update(other=h.pop("caption_vectors"))),
    "no count": lambda path: edit_entry(path, num_images="many"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_calibration_is_one_error_with_its_path(folder, damage):
    damage(folder / CALIBRATION)
    with pytest.raises(ValueError, match=r"calibration\.safetensors is not a calibration of a model: ") as caught:
        read_calibration(folder)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_are_refused(folder):
    calibration = read_calibration(folder)
    assert calibration is not None
    calibration.caption.vectors[2, 3] = np.nan
    write_calibration(folder, calibration)
    with pytest.raises(ValueError, match="caption queries have numbers that are not finite"):
        read_calibration(folder)


def test_selection_by_hash_does_not_depend_on_the_order():
    ids = [f"image {i}.jpg" for i in range(MAX_QUERIES + 200)]
    chosen = [ids[i] for i in select_by_hash(ids)]
    assert len(set(chosen)) == MAX_QUERIES
    turned = ids[::-1]
    assert [turned[i] for i in select_by_hash(turned)] == chosen
    assert [ids[i] for i in select_by_hash(ids, 7)] == chosen[:7]
