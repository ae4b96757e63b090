"""Copies of rows: an export checks what it reads, and two sources of one name do not share a store."""

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from data.config import ImportConfig, RegionFileConfig
from data.exchange.region_export import export_regions
from data.exchange.region_file import RegionFile
from data.exchange.region_import import find_missing_images, import_regions
from data.formats.catalogue import FORMATS
from data.manifest.manifest import open_or_create_store
from data.manifest.schema import Item, ShardPlan
from data.store.intact import read_intact_vectors
from data.store.shard_writer import write_shard
from data.store.store import Store
from data.store.writing import commit
from pipeline.cli.app import build_app
from tests.helpers.region_files import fill, some, target


@pytest.mark.parametrize("name", FORMATS)
def test_export_of_damaged_rows_names_them_and_writes_nothing(name, tmp_path):
    content = some(4, lambda i: 2)
    folder = fill(tmp_path / "a", content)
    value = content["13"]["features"][1].tobytes()
    (shard,) = folder.glob("shard-*.h5")
    data = shard.read_bytes()
    assert data.count(value) == 1
    shard.write_bytes(data.replace(value, value[:-1] + bytes([value[-1] ^ 1])))
    with pytest.raises(ValueError, match=rf"{shard.name}: the rows of 13 do not have the checksum"):
        export_regions(folder, target(tmp_path, name), name)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert export_regions(folder, target(tmp_path, name), name, image_ids=["7", "10", "16"]) == 3


def write_features(folder, value, images):
    folder.mkdir(parents=True)
    boxes = np.array([[0, 0, 50, 50], [1, 1, 9, 9]], "f4")
    for i in images:
        np.savez(folder / f"im{i}.npz", x=np.full((2, 8), value, "f4"), bbox=boxes, image_w=160, image_h=120)
    return folder


def test_two_sources_of_one_name_do_not_share_a_store(tmp_path):
    sources = [
        write_features(tmp_path / m / "features", v, r) for m, v, r in (("a", 1, range(4)), ("b", 9, range(2, 6)))
    ]
    first, second = (import_regions(ImportConfig(sources=(source,)), tmp_path / "stores") for source in sources)
    assert first.folder != second.folder
    again = import_regions(ImportConfig(sources=(sources[0],)), tmp_path / "stores")
    assert (again.folder, again.num_imported, again.num_unchanged) == (first.folder, 0, 4)
    assert Store(first.folder).read("features", ["im2"])[0, 0] == 1
    named = [import_regions(ImportConfig(sources=(source,), name="bua"), tmp_path / "stores") for source in sources]
    assert named[0].folder == named[1].folder
    assert [result.num_replaced for result in named] == [0, 2]
    assert len(Store(named[0].folder)) == 6


def test_import_command_says_how_many_images_replace_others(tmp_path):
    for model, value in (("a", 1), ("b", 9)):
        source = write_features(tmp_path / model / "features", value, range(3))
        command = ["store", "import", str(source), "--output", str(tmp_path / "stores"), "--name", "bua"]
        result = CliRunner().invoke(build_app(), command)
        assert result.exit_code == 0, result.output
    assert "3 of 3 images replace others of the same id" in result.output


def test_invalid_records_of_two_folders_keep_apart(tmp_path):
    sources = []
    for name in ("train", "val"):
        write_features(tmp_path / name, 1, [name])
        (tmp_path / name / "bad.npz").write_bytes(b"")
        sources.append(tmp_path / name)
    made = import_regions(ImportConfig(sources=tuple(sources)), tmp_path / "stores")
    assert [name for name, _ in made.invalid_records] == [f"bad ({folder}: bad.npz)" for folder in sources]
    shutil.rmtree(made.folder)


def write_flat(path, names, sizes):
    n = len(names)
    arrays = {"filename": np.array(names), "offset": np.arange(0, 2 * n + 1, 2), "size": np.array(sizes)}
    arrays |= {"boxes": np.tile(np.float32([1, 2, 30, 40]), (2 * n, 1)), "score": np.full(2 * n, 0.5, "f4")}
    features = np.repeat(np.arange(n, dtype="f4"), 2)[:, None] + np.zeros((2 * n, 8), "f4")
    np.savez(path, **arrays, cls=np.zeros(2 * n, "i4"), feat=features)


def test_region_file_of_a_plan_refuses_what_an_import_refuses(tmp_path):
    write_flat(tmp_path / "x.npz", ["a", "b", "c", "b"], [[160, 120], [160, 120], [0, 0], [160, 120]])
    made = import_regions(ImportConfig(sources=(tmp_path / "x.npz",)), tmp_path)
    assert made.invalid_records == (
        ("c (x.npz entry 2)", "its size is 0x0 pixels"),
        ("b (x.npz entry 3)", "the id 'b' is a duplicate of x.npz entry 1"),
    )
    config = RegionFileConfig(path=tmp_path / "x.npz", feature_arrays=("feat",), normalize=False)
    good, twice, zero, missing = RegionFile(config).rows(["a", "b", "c", "d"])
    assert good["features"].tolist() == [[0.0] * 8] * 2
    assert twice == f"{tmp_path / 'x.npz'} has it twice, as entries 1 and 3"
    assert zero == f"{tmp_path / 'x.npz'} entry 2: its size is 0x0 pixels"
    assert missing == f"it is not in {tmp_path / 'x.npz'}"


def test_image_without_a_size_in_a_given_store_is_missing(tmp_path):
    content = some(2)
    content["7"]["size"][:] = [0, 5]
    store = Store(fill(tmp_path, content))
    assert find_missing_images(store, ["7", "10", "x"]) == {
        "7": f"its size in the store {store.folder} is 0x5 pixels",
        "x": f"not in the store {store.folder}",
    }


def test_damaged_vector_is_named_before_it_is_indexed(tmp_path):
    folder = open_or_create_store(tmp_path, "vectors", {"model": "test"}, "float32")
    vectors = np.eye(4, 16, dtype="f4") + np.arange(1, 5, dtype="f4")[:, None]
    plan = ShardPlan(tuple(Item(name, "0" * 64) for name in "abcd"))
    commit(folder, [write_shard(folder, plan, [{"features": vector[None]} for vector in vectors])])
    assert np.array_equal(read_intact_vectors(Store(folder), ["c", "a"]), vectors[[2, 0]])
    (shard,) = folder.glob("shard-*.h5")
    content, value = shard.read_bytes(), vectors[2].tobytes()
    shard.write_bytes(content.replace(value, value[:-1] + bytes([value[-1] ^ 1])))
    assert np.array_equal(read_intact_vectors(Store(folder), ["b"]), vectors[[1]])
    with pytest.raises(ValueError, match=r"the rows of c do not have the checksum .*--unlist-damaged"):
        read_intact_vectors(Store(folder), ["a", "c"])
