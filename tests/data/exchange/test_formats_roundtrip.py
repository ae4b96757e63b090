"""Every format: exported and imported again bit for bit, and read and written as the original projects do."""

import base64
import csv
import json
import pickle
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import ImportConfig, ReadOptions
from data.exchange.region_export import export_regions
from data.exchange.region_import import import_regions
from data.formats.catalogue import FORMATS
from data.manifest.schema import REGION_FIELDS
from data.store.store import Store
from tests.helpers.region_files import fill, same, some, target

GOLDEN = Path(__file__).parents[4] / "shared" / "golden" / "train2014_obj36.tsv"
F32 = st.floats(width=32, allow_nan=False, allow_infinity=False)  # zeros of both signs, denormals, 3e38
PIXELS = st.sampled_from([0.0, -0.0, 1e-42, 0.1, 1 / 3]) | st.floats(0, 2000, width=32)
NAMES = st.text(st.sampled_from("aZ09 .-_'\"äé日😀#%,;{}"), min_size=1, max_size=12).filter(lambda s: s.strip("."))
TURNED = {"mcan": True, "milvlg": False}  # 1..5 rows of 1..5 numbers: often both sides are equal


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("data.io.files.fsync_path", lambda path: None)


def image(draw, rows: int, dim: int) -> dict[str, np.ndarray]:
    values = lambda kind, *shape: np.array(  # noqa: E731
        draw(st.lists(kind, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), "f4"
    ).reshape(shape)
    boxes = values(PIXELS, rows, 4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    number = lambda: np.array(draw(st.lists(st.integers(-1, 1600), min_size=rows, max_size=rows)), "i4")  # noqa: E731
    size = np.array([draw(st.integers(1, 30_000)), draw(st.integers(1, 30_000))], "i4")
    found = {"features": values(F32, rows, dim), "boxes": boxes, "class_ids": number(), "scores": values(F32, rows)}
    return {**found, "attr_ids": number(), "attr_scores": values(F32, rows), "size": size}


@st.composite
def stores(draw, fixed: bool):
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    dim, same = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return {name: image(draw, same if fixed else draw(st.integers(1, 5)), dim) for name in names}


def back(source: Path, root: Path, name: str = "auto", **settings) -> Store:
    options = ReadOptions(TURNED.get(name), allow_pickle=settings.pop("allow_pickle", ()))
    made = import_regions(
        ImportConfig(sources=(source,), format=name, sizes="boxes", options=options, **settings), root
    )
    assert not made.invalid_records
    return Store(made.folder)


@pytest.mark.parametrize("name", FORMATS)
def test_exported_fields_are_imported_bit_for_bit(name):
    kind = FORMATS[name]

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(stores(kind.fixed_rows))
    def check(content):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            folder = fill(root / "a", content)
            assert export_regions(folder, target(root, name), name) == len(content)
            again = back(target(root, name), root / "b", name)
            same(again, content, set(kind.fields))
            if not kind.is_folder:
                assert again.ids == list(content), "the order of the rows is kept"
                (root / "twice").mkdir()
                export_regions(again.folder, target(root / "twice", name), name)
                if kind.fields >= set(REGION_FIELDS) - {"features"} or name in ("butd-tsv", "precomp"):
                    assert target(root / "twice", name).read_bytes() == target(root, name).read_bytes()

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_format_is_detected_and_half_precision_becomes_float32(name, tmp_path):
    content = some(5, rows=lambda i: 3)
    folder = fill(tmp_path / "a", content, "float16")
    export_regions(folder, target(tmp_path, name), name)
    for fields in content.values():
        fields["features"] = fields["features"].astype("f2").astype("f4")
    made = import_regions(ImportConfig(sources=(target(tmp_path, name),), sizes="boxes"), tmp_path / "b")
    assert made.formats == (name,)
    same(Store(made.folder), content, set(FORMATS[name].fields))


def read_tsv(path: Path, columns: list[str], types: dict[str, str]) -> dict[str, dict]:
    """As lxmert src/utils.py and bottom-up-attention tools/read_tsv.py do."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with open(path) as file:
            items = list(csv.DictReader(file, columns, delimiter="\t"))
    finally:
        csv.field_size_limit(limit)
    for item in items:
        rows = int(item["num_boxes"])
        for key, dtype in types.items():
            item[key] = np.frombuffer(base64.b64decode(item[key]), dtype=dtype).reshape(rows, -1)
    return {item[columns[0]]: item for item in items}


LXMERT = ["img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes"]


LXMERT += ["boxes", "features"]


LXMERT_TYPES = {"objects_id": "i8", "objects_conf": "f4", "attrs_id": "i8", "attrs_conf": "f4"}


LXMERT_TYPES |= {"boxes": "f4", "features": "f4"}


BUTD = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]


def test_exported_tsv_is_readable_by_the_original_code(tmp_path):
    content = some(6)
    folder = fill(tmp_path, content)
    export_regions(folder, tmp_path / "l.tsv", "lxmert-tsv")
    export_regions(folder, tmp_path / "b.tsv", "butd-tsv")
    found = read_tsv(tmp_path / "l.tsv", LXMERT, LXMERT_TYPES)
    plain = read_tsv(tmp_path / "b.tsv", BUTD, {"boxes": "f4", "features": "f4"})
    pairs = {"objects_id": "class_ids", "objects_conf": "scores", "attrs_id": "attr_ids", "attrs_conf": "attr_scores"}
    for name, fields in content.items():
        for column, key in {**pairs, "boxes": "boxes", "features": "features"}.items():
            np.testing.assert_array_equal(np.squeeze(found[name][column]), np.squeeze(fields[key]))
        for item, w, h in ((found[name], "img_w", "img_h"), (plain[name], "image_w", "image_h")):
            assert [int(item[w]), int(item[h])] == fields["size"].tolist()
            np.testing.assert_array_equal(item["features"], fields["features"])
            np.testing.assert_array_equal(item["boxes"], fields["boxes"])


def test_exported_per_image_files_are_readable_by_the_original_code(tmp_path):
    content = some(4)
    folder = fill(tmp_path, content)
    for name in ("milvlg", "mcan", "ruotianluo", "tern"):
        export_regions(folder, tmp_path / name, name)
    for name, fields in content.items():
        milvlg, mcan = (np.load(tmp_path / kind / f"{name}.npz") for kind in ("milvlg", "mcan"))
        np.testing.assert_array_equal(milvlg["x"], fields["features"])
        np.testing.assert_array_equal(mcan["x"].transpose((1, 0)), fields["features"])
        assert mcan["x"].shape == fields["features"].shape[::-1]
        np.testing.assert_array_equal(milvlg["bbox"], fields["boxes"])
        assert [int(milvlg[key]) for key in ("image_w", "image_h")] == fields["size"].tolist()
        assert int(milvlg["num_bbox"]) == len(fields["boxes"])
        for kind, prefix in (("ruotianluo", "cocobu"), ("tern", "bu")):
            root = tmp_path / kind
            np.testing.assert_array_equal(np.load(root / f"{prefix}_att" / f"{name}.npz")["feat"], fields["features"])
            np.testing.assert_array_equal(np.load(root / f"{prefix}_box" / f"{name}.npy"), fields["boxes"])
        mean = np.load(tmp_path / "ruotianluo" / "cocobu_fc" / f"{name}.npy")
        np.testing.assert_allclose(mean, [sum(column) / len(column) for column in fields["features"].T], rtol=1e-5)


def test_exported_arrays_are_readable_by_the_original_code(tmp_path):
    content = some(5, rows=lambda i: 3)
    folder = fill(tmp_path, content)
    for name in ("precomp", "vqa-h5", "flat-npz"):
        export_regions(folder, target(tmp_path, name), name)
    images = np.load(tmp_path / "test_ims.npy")
    assert images.shape == (5, 3, 8)
    assert (tmp_path / "test_ids.txt").read_text().split() == list(content)
    index = {int(key): row for key, row in json.loads((tmp_path / "train36_imgid2idx.json").read_text()).items()}
    flat = np.load(tmp_path / "out.npz")
    with h5py.File(tmp_path / "train36.hdf5") as file:
        for number, (name, fields) in enumerate(content.items()):
            row = index[int(name)]
            for found in (images[number], file["image_features"][row]):
                np.testing.assert_array_equal(found, fields["features"])
            np.testing.assert_array_equal(file["image_bb"][row], fields["boxes"])
            spatial = np.array(file["spatial_features"])[row]
            np.testing.assert_allclose(spatial, slow_geometry(fields), rtol=2e-6)
            rows = slice(*flat["offset"][number : number + 2])
            np.testing.assert_array_equal(flat["features"][rows], fields["features"])
            assert flat["filename"][number] == name


def slow_geometry(fields: dict[str, np.ndarray]) -> list[list[float]]:
    w, h = map(int, fields["size"])
    boxes = [[float(v) for v in box] for box in fields["boxes"]]
    return [[a / w, b / h, c / w, d / h, (c - a) / w, (d - b) / h] for a, b, c, d in boxes]


def test_exported_adaptive_boxes_are_readable_by_the_code_of_ban_vqa(tmp_path):
    content = some(6)
    export_regions(fill(tmp_path, content), tmp_path / "train.hdf5", "vqa-h5-adaptive")
    index = json.loads((tmp_path / "train_imgid2idx.json").read_text())
    with h5py.File(tmp_path / "train.hdf5") as file:
        assert file["pos_boxes"].dtype == "int32"
        for name, fields in content.items():
            start, end = file["pos_boxes"][index[name]]
            np.testing.assert_array_equal(file["image_features"][start:end], fields["features"])
            np.testing.assert_array_equal(file["image_bb"][start:end], fields["boxes"])
            np.testing.assert_allclose(file["spatial_features"][start:end], slow_geometry(fields), rtol=2e-6)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_files_written_by_the_original_code_are_imported(tmp_path, protocol):
    content = some(4)
    (tmp_path / "npz").mkdir()
    for name, fields in content.items():
        info = {"image_id": name, "objects_id": fields["class_ids"], "objects_conf": fields["scores"]}
        info |= {"attrs_id": fields["attr_ids"].astype("i8"), "attrs_conf": fields["attr_scores"], "num_boxes": 3}
        w, h = fields["size"]
        arrays = {"x": fields["features"], "bbox": fields["boxes"], "num_bbox": len(fields["boxes"])}
        np.savez_compressed(tmp_path / "npz" / name, **arrays, image_h=h, image_w=w, info=info)
    plain = back(tmp_path / "npz", tmp_path / "plain", "milvlg")
    assert (plain.read("class_ids", sorted(content)) == -1).all(), "a pickle that nobody allowed was read"
    same(plain, content, {"boxes", "size"})
    every = set(REGION_FIELDS) - {"features"}
    same(back(tmp_path / "npz", tmp_path / "info", "milvlg", allow_pickle=("info",)), content, every)
    export_regions(fill(tmp_path, content), tmp_path / "t.hdf5", "vqa-h5-adaptive")
    index = {int(k): v for k, v in json.loads((tmp_path / "t_imgid2idx.json").read_text()).items()}
    (tmp_path / "t_imgid2idx.json").unlink()
    (tmp_path / "t_imgid2idx.pkl").write_bytes(pickle.dumps(index, protocol))
    same(back(tmp_path / "t.hdf5", tmp_path / "h5"), content, {"boxes", "size"})


def test_precomp_without_boxes_and_grid_features_are_imported(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "dev_ims.npy", features := rng.random((3, 4, 6), "f4"))
    sizes = tmp_path / "photos"
    sizes.mkdir()
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        Image.new("RGB", (30 + i, 20)).save(sizes / f"dev-{i}.jpg", exif=exif)
    config = ImportConfig(sources=(tmp_path,), id_template="{split}-{id}.jpg", images=sizes, boxes="image")
    store = Store(import_regions(config, tmp_path / "s").folder)
    for i in range(3):
        name = f"dev-{i}.jpg"
        np.testing.assert_array_equal(store.read("features", [name]), features[i])
        assert store.read("size", [name]).tolist() == [[20, 30 + i]], "turned upright, as the extractor sees it"
        assert store.read("boxes", [name]).tolist() == [[0, 0, 20, 30 + i]] * 4
    with pytest.raises(ValueError, match="pass the images with --images"):
        import_regions(ImportConfig(sources=(tmp_path,)), tmp_path / "s")
    with pytest.raises(ValueError, match="pass --boxes image"):
        import_regions(config.model_copy(update={"boxes": "file"}), tmp_path / "s")
    (tmp_path / "x_att").mkdir()
    np.savez(tmp_path / "x_att" / "5.npz", z=features[:, :, None])
    made = import_regions(
        config.model_copy(update={"sources": (tmp_path / "x",), "id_template": "dev-0.jpg{split}"}), tmp_path
    )
    np.testing.assert_array_equal(Store(made.folder).read("features", ["dev-0.jpg"]), features.reshape(12, 6))


@pytest.mark.skipif(not GOLDEN.exists(), reason="the real Caffe output is not part of the repository")
def test_real_caffe_output_is_exported_byte_for_byte(tmp_path):
    store = back(GOLDEN, tmp_path)
    export_regions(store.folder, tmp_path / "again.tsv", "lxmert-tsv")
    assert (tmp_path / "again.tsv").read_bytes() == GOLDEN.read_bytes()
    assert store.lengths(store.ids).tolist() == [36] * 10
    assert store.dim == 2048
    features = store.read("features", store.ids)
    assert round(float((features == 0).mean()), 2) == 0.34
    for name, item in read_tsv(GOLDEN, LXMERT, LXMERT_TYPES).items():
        np.testing.assert_array_equal(store.read("features", [name]), item["features"])
        np.testing.assert_array_equal(store.read("boxes", [name]), item["boxes"])
        np.testing.assert_array_equal(store.read("class_ids", [name]), item["objects_id"][:, 0])
