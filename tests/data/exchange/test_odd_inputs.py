"""Odd files of every format: the message has file, record and value, and no value gets another meaning silently."""

import gzip

import h5py
import numpy as np
import pytest

from data.config import ImportConfig, ReadOptions
from data.exchange import count_images, import_regions
from data.store.store import Store
from tests.helpers.region_files import b64, line

BOXES = np.tile(np.float32([0, 0, 9, 9]), (2, 1))
X = np.arange(8).reshape(2, 4) + 1


def write_npz(folder, **arrays):
    np.savez(folder / "p.npz", **{"x": X.astype("f4"), "bbox": BOXES, "image_w": 20, "image_h": 20, **arrays})
    return folder


def write_precomp(folder, values=None, ids=None, sizes=None):
    values = np.ones((3, 2, 4), "f4") if values is None else values
    np.save(folder / "t_ims.npy", values)
    np.save(folder / "t_img_sizes.npy", np.full((3, 2), 20) if sizes is None else sizes)
    np.save(folder / "t_boxes.npy", np.tile(BOXES, (3, 1, 1)))
    if ids is not None:
        (folder / "t_ids.txt").write_bytes(ids)
    return folder


def write_hdf5(folder, **arrays):
    defaults = {"image_features": np.ones((2, 3, 4), "f4"), "image_bb": np.ones((2, 3, 4), "f4")}
    with h5py.File(folder / "x.hdf5", "w") as file:
        for name, values in {**defaults, **arrays}.items():
            file[name] = values
    (folder / "x_imgid2idx.json").write_text('{"a": 0, "b": 1}')
    return folder / "x.hdf5"


def write_tsv(folder, content):
    (folder / "x.tsv").write_bytes(content)
    return folder / "x.tsv"


REFUSED = {
    "complex": (lambda f: write_npz(f, x=X.astype("c8")), r"p \(p\.npz\): its features are complex64 \(2, 4\)"),
    "bool": (lambda f: write_npz(f, x=X > 0), "its features are bool"),
    "objects": (lambda f: write_npz(f, x=X.astype(object)), r"p\.npz: array 'x' .* Python objects"),
    "infinite width": (lambda f: write_npz(f, image_w=np.inf), r"its size are not integers .*: \[inf, 20\.0\]"),
    "width as text": (lambda f: write_npz(f, image_w="20"), "its size are <U21"),
    "negative width": (lambda f: write_npz(f, image_w=-3), "its size is -3x20 pixels"),
    "boxes missing": (lambda f: write_npz(f, num_bbox=np.nan), r"num_bbox is \[nan\], not one whole number"),
    "other boxes": (lambda f: write_npz(f, num_bbox=3), "num_bbox is 3, but there are 2 boxes"),
    "info": (
        lambda f: write_npz(f, info=np.array({"objects_id": [[1], [2, 3]]}, dtype=object)),
        r"p\.npz: info\['objects_id'\] is not an array of numbers",
    ),
    "no dimension": (lambda f: write_precomp(f, np.ones((3, 2, 0), "f4")), r"t_ims\.npy is \(3, 2, 0\)"),
    "scalar": (lambda f: write_precomp(f, np.float32(3).reshape(())), r"t_ims\.npy is \(\)"),
    "ids in latin": (lambda f: write_precomp(f, ids=b"a\n\xff\nc\n"), r"t_ids\.txt is not UTF-8 text"),
    "sizes of 0": (lambda f: write_precomp(f, sizes=np.zeros((3, 2))), r"t_ims\.npy row 0\): its size is"),
    "no numbers": (lambda f: write_hdf5(f, image_features=np.ones((2, 3, 4), "c8")), "image_features is not an HDF5"),
    "fractional rows": (
        lambda f: write_hdf5(
            f, image_features=np.ones((3, 4)), image_bb=np.ones((3, 4)), pos_boxes=np.array([[0, 1.5], [1, 3]])
        ),
        "pos_boxes is float64; row numbers are integers",
    ),
    "endless boxes": (lambda f: write_hdf5(f, image_bb=np.full((2, 3, 4), 1e30)), r"its boxes end at 1e\+30, 1e\+30"),
    "gzip": (lambda f: write_tsv(f, gzip.compress(line("a").encode())), r"x\.tsv is compressed \(gzip\)"),
    "columns": (lambda f: write_tsv(f, b"a" + b"\t" * 1000), r"x\.tsv line 1: it has 1,001 columns"),
}


def run_import(source, folder, **options):
    is_npz = (source / "p.npz").exists() if source.is_dir() else False
    kind = "milvlg" if is_npz else "lxmert-tsv" if source.suffix == ".tsv" else "auto"
    sizes = "boxes" if source.suffix == ".hdf5" else "images"
    read = ReadOptions(allow_pickle=("info",))
    config = ImportConfig(sources=(source,), format=kind, sizes=sizes, options=read, **options)
    count_images(config)
    return import_regions(config, folder / "out")


@pytest.mark.parametrize("case", REFUSED)
def test_odd_file_is_named_with_its_value(case, tmp_path):
    write, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        run_import(write(tmp_path), tmp_path)


@pytest.mark.parametrize("dtype", [">f4", "<f2", "f8", "f16", "i8"])
def test_numbers_of_another_type_keep_their_values(dtype, tmp_path):
    made = run_import(write_npz(tmp_path, x=X.astype(dtype)), tmp_path)
    assert np.array_equal(Store(made.folder).read("features", ["p"]), X)
    assert [warning[:29] for warning in made.warnings] == ["p.npz: the features are int64"] * (dtype == "i8")


def test_byte_order_mark_is_no_part_of_an_id(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    made = run_import(write_precomp(tmp_path / "a", ids="\ufeffa\r\nb\r\nc\r\n".encode()), tmp_path / "a")
    assert Store(made.folder).ids == ["a", "b", "c"]
    made = run_import(write_tsv(tmp_path / "b", ("\ufeff" + line("a")).encode()), tmp_path / "b")
    assert Store(made.folder).ids == ["a"]


def test_images_without_a_box_file_are_named(tmp_path):
    for folder in ("c_att", "c_box"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "c_att/1.npz", feat=np.ones((2, 4), "f4"))
    with pytest.raises(ValueError, match=r"1 \(c_att/1\.npz\): it has no boxes: .*c_box/1\.npy and 1\.npz are missing"):
        import_regions(ImportConfig(sources=(tmp_path,), sizes="boxes"), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": b64(np.ones((2, 4)), "i4")}, "do not look like float32, which the format has, but like integers"),
        ({"features": b64(np.full((2, 8), 1.5), ">f4")}, "or numbers in big-endian order"),
        ({"id": "None"}, "the id is 'None', which programs write for a missing one"),
    ],
)
def test_bytes_and_ids_that_mean_something_else_give_a_warning(change, message, tmp_path):
    row = line("a", **{"boxes": b64(BOXES, "f4"), **change})
    (warning,) = run_import(write_tsv(tmp_path, row.encode()), tmp_path).warnings
    assert message in warning
