"""Third-party region files that are broken, truncated or malicious."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.config import ImportConfig, ReadOptions
from data.exchange.region_export import export_regions
from data.exchange.region_import import import_regions
from data.formats.arrays import load_npy, map_npy
from data.formats.catalogue import FORMATS
from data.formats.npz import Npz
from data.store.store import Store
from data.unpickle import load_restricted
from tests.helpers.region_files import b64, fill, line, some, target


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("data.io.files.fsync_path", lambda path: None)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (line("bad", features="!" + b64(np.ones(6), "f4")), "features is not base64"),
        (line("bad", features=b64(np.ones(6), "f4")[:-3]), "features is not base64"),
        (line("bad", features=b64(np.ones(5), "f4")), "features has 20 bytes, but 2 boxes require a multiple of 8"),
        (line("bad", features=""), "features has 0 bytes"),
        (line("bad", boxes=b64(np.ones(7), "f4")), "boxes has 28 bytes, but 2 boxes require 32"),
        (line("bad", objects=b64([1], "i8")), "objects_id has 8 bytes"),
        (line("bad", objects=b64([1, 2**40], "i8")), "class_ids are not integers that fit into 32 bits"),
        (line("bad", features=b64([1, 2, np.nan, 1, 2, 3], "f4")), "features are not finite"),
        (line("bad", boxes=b64([np.inf] * 8, "f4")), "boxes are not finite"),
        (line("bad", conf=b64([np.nan] * 2, "f4")), "scores are not finite"),
        (line("bad", features=b64(np.ones(8), "f4")), "features have dimension 4, but those of earlier images have 3"),
        (line("bad", n="0"), "num_boxes is '0'"),
        (line("bad", n="9999999999999999"), "num_boxes is '9999"),
        (line("bad", w="-3"), "img_w is '-3'"),
        (line("bad", h="4.5"), "img_h is '4.5'"),
        (line("good1"), "the id 'good1' is a duplicate of x.tsv line 1"),
        (line(""), "is not an id"),
        (line("x\0y"), "is not an id"),
        (line("x" * 2000), "is not an id"),
        (line("bad")[:100], "columns, not 10; the line may be cut"),
        (line("bad") + "\t" + line("worse"), "it has 20 columns"),
        ('"' + line("bad"), "quotation mark"),
        (line("bad\udcff"), "codec can't decode"),
    ],
)
def test_import_lists_invalid_lines_with_their_number(tmp_path, bad, says):
    path = tmp_path / "x.tsv"
    text = "\r\n".join([line("good1"), bad, line("good2"), line("good3")[:-9]])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    made = import_regions(ImportConfig(sources=(path,), format="lxmert-tsv"), tmp_path)
    assert (made.num_imported, Store(made.folder).ids) == (2, ["good1", "good2"])
    (position, reason), (last, _) = made.invalid_records
    assert says in reason
    assert "line 2" in position
    assert "line 4" in last, "the cut last line"
    assert Store(made.folder).invalid_items == dict(made.invalid_records)
    again = import_regions(ImportConfig(sources=(path,)), tmp_path)
    assert (again.num_imported, again.num_unchanged, len(again.invalid_records)) == (0, 2, 2)
    assert Store(again.folder).generation == Store(made.folder).generation


def test_import_raises_without_valid_records_formats_or_files(tmp_path):
    path = tmp_path / "x.tsv"
    for content, says in ((b"", "no known format"), (b"a\tb\r\n", "no known format"), (b"\0" * 99, "no known format")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=says):
            import_regions(ImportConfig(sources=(path,)), tmp_path)
    path.write_text(line("a", n="7"))
    with pytest.raises(
        ValueError, match=r"no valid record could be imported. The first record, a \(x.tsv line 1\): objects_id has"
    ):
        import_regions(ImportConfig(sources=(path,)), tmp_path)
    with pytest.raises(ValueError, match="must be one of lxmert-tsv"):
        import_regions(ImportConfig(sources=(path,), format="lxmert"), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Nothing is at .*gone\. Pass a folder"):
        import_regions(ImportConfig(sources=(tmp_path / "gone",), format="mcan"), tmp_path)
    with pytest.raises(FileNotFoundError, match="Pass a file, a folder, or the prefix"):
        import_regions(ImportConfig(sources=(tmp_path / "gone",)), tmp_path)


@pytest.mark.parametrize("name", ["precomp", "vqa-h5"])
def test_export_with_fixed_rows_names_the_first_image_that_differs(name, tmp_path):
    folder = fill(tmp_path, some(5, rows=lambda i: 3 if i < 3 else i))
    with pytest.raises(ValueError, match=r"'19' has 4 rows, '7' has 3.*vqa-h5-adaptive") as error:
        export_regions(folder, target(tmp_path, name), name)
    assert "16" not in str(error.value).split(":")[1]
    assert not target(tmp_path, name).exists()
    even = fill(tmp_path / "even", some(5, rows=lambda i: 2))
    export_regions(even, path := target(tmp_path, name), name)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(ValueError, match="'19' has 4 rows"):
        export_regions(folder, path, name, force=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before, (
        "a rejected export changes nothing"
    )


def npy(shape: tuple, dtype: str = "<f4", data: bytes = b"") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy((10**12, 2048)), "declares .* it has 0"),
        (npy((2, 2), data=b"\0" * 15), "declares .* 16 bytes, but it has 15"),
        (npy((-1, 2), data=b"\0" * 16), "impossible"),
        (npy((2**62, 2**62), data=b"\0" * 16), "declares"),
        (npy((1,), "|O", pickle.dumps([1])), "a pickle"),
        (b"no numpy", "magic"),
        (b"", "read"),
    ],
)
def test_headers_that_declare_more_than_the_file_has_are_rejected(content, says, tmp_path):
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for read in (load_npy, map_npy, lambda path: Npz(path.with_suffix(".npz")).read("x")):
        tracemalloc.start()
        with pytest.raises(ValueError, match=f"(?s)x.np.*{says}"):
            read(tmp_path / "x.npy")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_import_lists_invalid_per_image_files(tmp_path):
    export_regions(fill(tmp_path / "a", some(2)), folder := tmp_path / "f", "milvlg")
    good = dict(np.load(folder / "7.npz"))
    np.savez(folder / "no-x.npz", bbox=good["bbox"])
    np.savez(folder / "pickle.npz", **{**good, "x": np.array([{"a": 1}], dtype=object)})
    np.savez(folder / "boxes.npz", **{**good, "bbox": np.ones((9, 4), "f4")})
    (folder / "half.npz").write_bytes((folder / "7.npz").read_bytes()[:99])
    (folder / "empty.npz").write_bytes(b"")
    np.savez(folder / "0-boxes.npz", x=good["x"], num_bbox=np.zeros(0), image_w=5, image_h=5)
    np.savez(folder / "inf.npz", x=good["x"], num_bbox=np.inf, image_w=5, image_h=5)
    np.savez(folder / "0-width.npz", **{**good, "image_w": np.zeros(0)})
    with open(os.fsencode(folder) + b"/z\xff.npz", "wb") as file:
        np.savez(file, **good)
    assert import_regions(ImportConfig(sources=(folder,)), tmp_path / "auto").formats == ("milvlg",), "the first is bad"
    made = import_regions(ImportConfig(sources=(folder,), format="milvlg"), tmp_path)
    reasons = {position.split(" ")[0]: reason for position, reason in made.invalid_records}
    assert made.num_imported == 2
    assert set(reasons) == {"no-x", "pickle", "boxes", "half", "empty", "0-boxes", "inf", "0-width", "z\\udcff"}
    assert "has no array 'x'" in reasons["no-x"]
    assert "a pickle" in reasons["pickle"]
    assert "there are 9 boxes" in reasons["boxes"]
    np.savez(folder / "square.npz", x=np.ones((3, 3), "f4"), bbox=np.ones((3, 4), "f4"), image_w=5, image_h=5)
    with pytest.raises(ValueError, match="--transposed yes"):
        import_regions(ImportConfig(sources=(folder,), format="milvlg"), tmp_path)
    config = ImportConfig(sources=(folder,), format="milvlg", options=ReadOptions(transposed=False))
    assert import_regions(config, tmp_path / "t").formats == ("milvlg",)


def test_import_rejects_hdf5_links_and_wrong_sidecar_files(tmp_path):
    folder = fill(tmp_path / "a", some(3))
    export_regions(folder, path := tmp_path / "x.hdf5", "vqa-h5-adaptive")
    index = tmp_path / "x_imgid2idx.json"

    def imported():
        return import_regions(ImportConfig(sources=(path,)), tmp_path / "s")

    index.write_text('{"7": 0, "10": 5, "13": -1}')
    assert [reason for _, reason in imported().invalid_records] == [
        "the sidecar file has row -1, but the file has only 3 rows",
        "the sidecar file has row 5, but the file has only 3 rows",
    ]
    index.write_text('{"7": 0, "10": 1, "13": 2}')
    with h5py.File(path, "r+") as file:
        file["pos_boxes"][1] = [2, 10**9]
        file["pos_boxes"][2] = [5, 5]
    assert len(imported().invalid_records) == 2
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"Put x_imgid2idx\.json or x_imgid2idx\.pkl .* into the same folder"):
        imported()
    for content, says in (("[1]", "not a dict"), ('{"7": "a"}', "not a dict"), ("{", "not valid JSON")):
        index.write_text(content)
        with pytest.raises(ValueError, match=says):
            imported()
    index.write_text('{"7": 0}')
    with h5py.File(path, "r+") as file:
        del file["image_bb"]
        file["image_bb"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "image_bb")
    with pytest.raises(ValueError, match="image_bb is not an HDF5 dataset of numbers in this file"):
        imported()
    path.write_bytes(b"no hdf5")
    with pytest.raises(ValueError, match="not a readable HDF5"):
        imported()


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/evil-was-here",)


def test_load_restricted_gives_plain_values():
    rng = np.random.default_rng(0)
    arrays = [rng.random((2, 3)), np.asfortranarray(rng.random((3, 2)), "f4"), np.arange(3), np.array(["a", "bc"])]
    arrays += [np.array(5.0), np.zeros((0, 4), ">i2"), np.array([True]), np.array([{"a": [1]}, None], dtype=object)]
    plain = {"a": [1, 2.5, None, True, "é", b"x", (1, (2,))], 7: OrderedDict(b=10**30), "s": np.float32(2.5)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = load_restricted(io.BytesIO(pickle.dumps({**plain, "arrays": arrays, "twice": [plain] * 2}, protocol)))
        assert {key: found[key] for key in plain} == plain
        for one, other in zip(found["arrays"], arrays, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert one.tolist() == other.tolist()
    loop: list = []
    loop.append(loop)
    assert load_restricted(io.BytesIO(pickle.dumps(loop)))[0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pickle.dumps(Evil()), "asks for .*system"),
        (pickle.dumps({"a": [Evil()]}, 0), "asks for .*system"),
        (pickle.dumps(np.ndarray), "a type instead of a value"),
        (pickle.dumps(np.dtype("f4")), "a type instead of a value"),
        (pickle.dumps(print), "asks for builtins.print"),
        (pickle.dumps(Path("a")), "asks for pathlib"),
        (pickle.dumps(np.zeros(2, [("a", "f4")])), "not plain data"),
        (b"\x80\x04cnumpy\ndtype\n.", "a type instead of a value"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 10**15) + b"abc.", "malformed|byte"),
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "numbers a value"),
        (b"\x80\x02Pid\n.", "PERSID"),
        (b"\x80\x04})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.", "tuple as key"),  # hashing it takes 2 ** 60 steps
        (b"\x80\x02c_codecs\nencode\n)" + b"q\x00h\x00\x86" * 60 + b"\x85R.", "tuple where a text"),
        (b"\x80\x02cnumpy\ndtype\n)" + b"q\x00h\x00\x86" * 60 + b"\x85R.", "tuple where a text"),
        (b"\x80\x02cnumpy\ndtype\nU\x02f4\x85R(K\x01)" + b"q\x00h\x00\x86" * 60 + b"tb.", "tuple where a text"),
        (
            pickle.dumps(np.zeros((2, 3)), 2).replace(b"K\x02K\x03\x86", b"(" + b"K\x01" * 65 + b"t"),
            "impossible shape",
        ),
        (b"\x80\x04})" + b"\x85" * 20_000 + b"K\x01s.", "tuple as key"),  # a million of them ended the process
        (b"\x80\x02cnumpy._core.numeric\n_frombuffer\n(N}U\x08__init__Nstb.", "gives a state to a type"),
        (pickle.dumps([1, 2])[:-1], "malformed|byte|opcode|exhausted"),
        (b"", "malformed|byte|opcode|exhausted"),
        (pickle.dumps(np.arange(6)).replace(b"K\x06\x85", b"K\x07\x85"), "array of"),
    ],
)
def test_load_restricted_rejects_other_pickles_without_effects(data, says):
    tracemalloc.start()
    with pytest.raises(ValueError, match=says):
        load_restricted(io.BytesIO(data))
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    with pytest.raises(ValueError, match="more than 10 bytes"):
        load_restricted(io.BytesIO(b"x" * 11), max_bytes=10)


@pytest.mark.parametrize("name", ["lxmert-tsv", "milvlg", "flat-npz", "precomp", "vqa-h5-adaptive"])
def test_damaged_files_give_records_or_a_reason_and_no_other_error(name, tmp_path):
    export_regions(fill(tmp_path / "a", some(2, rows=lambda i: 2)), path := target(tmp_path, name), name)
    file = path / "7.npz" if FORMATS[name].is_folder else path
    whole, rng, outcomes = file.read_bytes(), np.random.default_rng(1), set()
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, rng.choice([200, len(whole)]), rng.integers(1, 4)):
            damaged[min(position, len(whole) - 1)] = rng.integers(256)
        file.write_bytes(damaged[: None if rng.random() < 0.8 else rng.integers(1, len(whole))])
        try:
            outcomes |= {type(record).__name__ for record in FORMATS[name].read(path, ReadOptions())}
        except (ValueError, FileNotFoundError) as error:
            outcomes.add(type(error).__name__)
    assert len(outcomes) > 1, "some damage is found, and some files stay readable"
