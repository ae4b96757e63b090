"""Small files that would take gigabytes: each reader refuses them before it allocates, and says which limit they pass.

Memory is measured by the kernel: a process of its own reads the file and reports its peak.
"""

import io
import pickle
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from data.config import ImportConfig, RegionFileConfig
from data.exchange.region_export import export_regions
from data.exchange.region_file import RegionFile
from data.exchange.region_import import import_regions
from data.formats.arrays import write_header
from data.formats.npz import Npz
from data.io.limits import MAX_EXPANSION, check_checkpoint, check_expansion, check_limit
from data.store.store import Store
from data.unpickle import load_restricted
from tests.helpers.region_files import fill, some

ROWS = 131_000  # of 2,048 numbers: 1.07 GB


def write_zeros(path, arrays, **small):
    """Write a compressed .npz whose `arrays` (name -> shape) are float32 zeros, without holding them in memory."""
    np.savez_compressed(path, **small)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                write_header(file, shape, "<f4")
                for _ in range(shape[0]):
                    file.write(bytes(4 * shape[1]))


def make_shared_pickle(num_arrays=8_000, num_bytes=500_000):
    """Make a pickle of arrays that all name one buffer: by hand, because no library writes it."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    head = b"\x80\x04B" + struct.pack("<I", num_bytes) + bytes(num_bytes) + b"q\x00" + b"0"
    head += b"cnumpy\ndtype\n" + text("u1") + b"\x85Rq\x01" + b"0" + b"cnumpy._core.numeric\n_frombuffer\nq\x02" + b"0"
    head += b"J" + struct.pack("<i", num_bytes) + b"\x85q\x03" + b"0" + text("C") + b"q\x04" + b"0}("
    call = b"h\x02(h\x00h\x01h\x03h\x04tR"
    return head + b"".join(text(f"w{i}") + call for i in range(num_arrays)) + b"u."


def make_repeating_pickle(function, argument, times=5_000):
    """Make a pickle that calls a function many times with one argument, which it names by its number."""
    body = pickle.dumps(argument, 2)[2:-1]
    return b"\x80\x02" + body + b"r\xff\xff\x00\x00" + b"0](" + (function + b"(j\xff\xff\x00\x00tR") * times + b"e."


def run_import(source, root, limit_gb=3):
    """Import in a process with an address space of a few gigabytes; return its peak in bytes and its output."""
    program = (
        "import re, resource, sys; from pathlib import Path\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit_gb} << 30, {limit_gb} << 30))\n"
        "from data.config import ImportConfig; from data.exchange import import_regions\n"
        "try:\n"
        "    result = import_regions(ImportConfig(sources=(Path(sys.argv[1]),)), Path(sys.argv[2]))\n"
        "    print(result.num_imported, *result.invalid_records)\n"
        "except ValueError as error:\n"
        "    print('refused', error)\n"
        # ru_maxrss would be that of the test process, from which this one was forked
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, source, root], capture_output=True, text=True, check=True)
    *output, peak = done.stdout.splitlines()
    return int(peak) * 1024, "\n".join(output)


def test_limits_say_what_and_how_much():
    check_limit("it", 5, 5)
    with pytest.raises(ValueError, match=r"^x has 1,001 rows; at most 1,000 are read$"):
        check_limit("x", 1_001, 1_000, "rows")
    check_expansion("x", 10, 64 << 20)
    check_expansion("x", 4 << 20, MAX_EXPANSION * (4 << 20))
    with pytest.raises(
        ValueError, match=r"^x has 4,194,304 bytes, which decompress to 209,715,201; at most 209,715,200"
    ):
        check_expansion("x", 4 << 20, MAX_EXPANSION * (4 << 20) + 1)


@pytest.mark.parametrize(
    "data",
    [
        make_shared_pickle(),
        make_repeating_pickle(b"c_codecs\nencode\n", "x" * 500_000),
        make_repeating_pickle(b"ccollections\nOrderedDict\n", [(str(i), i) for i in range(20_000)]),
        b"\x80\x04](" + b"]" * 6_000_000 + b"e.",
    ],
    ids=["arrays of one buffer", "one text encoded often", "one list made a dict often", "a list per byte"],
)
def test_load_restricted_copies_no_more_than_the_pickle_has(data, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    program = (
        "import resource, sys; from pathlib import Path; from data.unpickle import load_restricted\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try: load_restricted(Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert "they share their bytes" in done.stdout or "more than 5,000,000 values" in done.stdout


def test_load_restricted_reads_arrays_that_are_honestly_shared():
    array, flags = np.arange(1000.0), np.ones(1, np.uint8)
    content = {"a": array, "again": array, "flags": [flags.copy() for _ in range(100)], "order": list(range(99))}
    for protocol in range(6):
        loaded = load_restricted(io.BytesIO(pickle.dumps(content, protocol)))
        assert loaded["a"] is loaded["again"]
        assert np.array_equal(loaded["a"], array)
        assert len(loaded["flags"]) == 100


def test_import_sets_aside_an_image_that_expands_to_a_gigabyte(tmp_path):
    box = {"bbox": np.tile(np.float32([0, 0, 9, 9]), (ROWS, 1)), "num_bbox": ROWS, "image_h": 9, "image_w": 9}
    write_zeros(tmp_path / "a.npz", {"x": (ROWS, 2048)}, **box)
    good = {"x": np.ones((2, 4), "f4"), "bbox": np.tile(np.float32([0, 0, 9, 9]), (2, 1)), "num_bbox": 2}
    np.savez(tmp_path / "b.npz", **good, image_h=9, image_w=9)
    peak, output = run_import(tmp_path, tmp_path / "out")
    assert output.startswith("1 ('a (a.npz)', ")
    assert "1,075,248,664; at most 67,108,864 are read" in output
    assert peak < 400 << 20
    assert sum(path.stat().st_size for path in tmp_path.glob("out/**/*")) < 100_000


def test_import_sets_aside_an_image_of_more_rows_than_any_detector_gives(tmp_path):
    rows = 10_001
    np.savez_compressed(
        tmp_path / "a.npz", x=np.ones((rows, 2), "f4"), bbox=np.ones((rows, 4), "f4"), image_h=9, image_w=9
    )
    with pytest.raises(ValueError, match=r"a \(a\.npz\): it has 10,001 rows; at most 10,000 are read"):
        import_regions(ImportConfig(sources=(tmp_path,), format="milvlg"), tmp_path / "out")


def test_import_writes_a_shard_before_its_rows_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("data.exchange.region_import.MAX_SHARD_BYTES", 3_000)
    export_regions(fill(tmp_path / "a", some(9, lambda i: 8, dim=32)), tmp_path / "files", "milvlg")  # 1.3 kB an image
    made = import_regions(ImportConfig(sources=(tmp_path / "files",)), tmp_path / "out")
    assert [entry.items for entry in Store(made.folder).manifest.shards] == [3, 3, 3]
    again = import_regions(ImportConfig(sources=(tmp_path / "files",)), tmp_path / "out")
    assert (again.num_imported, again.num_unchanged) == (0, 9)


def test_npz_rejects_arrays_that_overlap_or_come_twice(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", b"")
    with pytest.raises(ValueError, match=r"x\.npz cannot be read: it has the array 'x' twice"):
        Npz(path)


def test_flat_npz_skips_an_image_of_too_many_rows_and_reads_the_others(tmp_path):
    rows = 10_001
    arrays = {"filename": np.array(["a", "b"]), "offset": np.array([0, rows, rows + 1]), "size": np.full((2, 2), 9)}
    arrays |= {"boxes": np.ones((rows + 1, 4), "f4"), "score": np.ones(rows + 1, "f4"), "cls": np.ones(rows + 1, "i4")}
    np.savez_compressed(tmp_path / "x.npz", **arrays, feat=np.arange(rows + 1, dtype="f4")[:, None])
    made = import_regions(ImportConfig(sources=(tmp_path / "x.npz",)), tmp_path / "out")
    assert made.invalid_records == (("x.npz entry 0", "it has 10,001 rows; at most 10,000 are read"),)
    assert Store(made.folder).read("features", ["b"]).tolist() == [[rows]]
    config = RegionFileConfig(path=tmp_path / "x.npz", feature_arrays=("feat",), normalize=False)
    reason, fields = RegionFile(config).rows(["a", "b"])
    assert "10,001 rows; at most 10,000" in reason
    assert fields["features"].tolist() == [[rows]]


@pytest.mark.parametrize("name", ["image_features", "pos_boxes"])
def test_hdf5_rejects_shapes_that_the_file_cannot_hold(name, tmp_path):
    shapes = {"image_features": (100, 8), "image_bb": (100, 4), "pos_boxes": (2, 2)}
    shapes[name] = (10**9, shapes[name][1])
    shapes["image_bb"] = (shapes["image_features"][0], 4)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for key, shape in shapes.items():
            file.create_dataset(key, shape, "i4" if key == "pos_boxes" else "f4", chunks=True, compression="gzip")
    (tmp_path / "x_imgid2idx.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match=r"x\.hdf5: \w+ has 0 bytes, which decompress to [\d,]+; at most"):
        import_regions(ImportConfig(sources=(tmp_path / "x.hdf5",)), tmp_path / "out")


def test_hdf5_rejects_chunks_that_fill_the_memory(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        shape = (40_000, 36, 512)
        data = file.create_dataset("image_features", shape, "f4", chunks=(40_000, 36, 64))
        data.id.write_direct_chunk((0, 0, 0), bytes(70_000_000), filter_mask=0)
        file.create_dataset("image_bb", (40_000, 36, 4), "f4")
    (tmp_path / "x_imgid2idx.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match=r"image_features has 368,640,000 bytes per HDF5 chunk; at most 268,435,456"):
        import_regions(ImportConfig(sources=(tmp_path / "x.hdf5",)), tmp_path / "out")


def test_checkpoint_whose_tensors_share_values_or_are_compressed_is_rejected(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(bytes(1_000))
    check_checkpoint(path, [4_000])
    with pytest.raises(ValueError, match="its tensors have 4,001 bytes, but the file has 1,000"):
        check_checkpoint(path, [4_000, 1])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(10_000))
    with pytest.raises(ValueError, match="compressed"):
        check_checkpoint(path)
