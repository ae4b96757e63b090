"""The gate of an update reads all new objects, and those of the served version only if they were modified since."""

import os
import shutil
from pathlib import Path

import pytest

from data.io import stamps
from index.building.build import build_index
from index.building.publish import GateFn
from index.config import GateConfig
from index.quality import verified
from index.quality.gate import make_gate
from index.versions import folder
from index.versions.folder import read_version_manifest
from index.versions.manifest import PARTS
from index.versions.objects import check_object, object_path
from index.versions.switch import RejectedError
from tests.helpers.index_updates import CONFIG, World, edit


def make_world_gate(world: World) -> GateFn:
    return make_gate(GateConfig(), {}, world.collections(), CONFIG)


@pytest.fixture(scope="module")
def gated(tmp_path_factory) -> Path:
    world, root = World(), tmp_path_factory.mktemp("gated")
    build_index(CONFIG, world.inputs(), root, gate=make_world_gate(world))
    return root


@pytest.fixture
def root(gated, tmp_path, monkeypatch) -> Path:
    """A copy with stamps of its own files, as after its gate."""
    monkeypatch.setattr(stamps, "MIN_AGE_SECONDS", -9.0)  # seconds: no file here is older
    root = shutil.copytree(gated, tmp_path / "index")
    verified.save_stamps(root, verified.read_stamps(root, list(read_version_manifest(root).collections.values())))
    return root


@pytest.fixture
def hashed(monkeypatch) -> set[Path]:
    """The objects whose hash is compared by an audit."""
    paths: set[Path] = set()

    def record(root, ref, description, content=True, rehash=True):
        path = check_object(root, ref, description, content, rehash)
        paths.update([path] if content else [])
        return path

    monkeypatch.setattr(folder, "check_object", record)
    return paths


def update(root: Path, on_step=lambda step: None) -> None:
    """Publish an update with a gate."""
    world = World()
    edit(world)
    world.update(root, on_step=on_step, gate=make_world_gate(world))
    world.check(root)


def list_objects(root: Path, part: str | None = None) -> set[Path]:
    """Return the paths of all shard objects of the published version, or of one part."""
    shards = [
        shard
        for collection_manifest in read_version_manifest(root).collections.values()
        for shard in collection_manifest.shards
    ]
    return {object_path(root, getattr(shard, name)) for shard in shards for name in PARTS if part in (None, name)}


def test_gate_of_update_reads_old_objects_only_if_modified(root, hashed):
    before = list_objects(root)
    touched = sorted(list_objects(root, "vectors"))[0]
    os.utime(touched)
    same_shard = next(
        {object_path(root, getattr(shard, name)) for name in PARTS}
        for collection_manifest in read_version_manifest(root).collections.values()
        for shard in collection_manifest.shards
        if object_path(root, shard.vectors) == touched
    )
    update(root)
    assert hashed & before == same_shard, "the shard with the touched file"
    assert list_objects(root) - before <= hashed, "new objects"
    hashed.clear()
    first = list_objects(root)
    world = World()
    edit(world)
    world.remove("image", "0011.jpg")
    world.update(root, gate=make_world_gate(world))
    assert not hashed & first, "the gate of the previous update has read them"


def test_gate_of_build_and_without_stamps_reads_all_objects(root, hashed):
    (root / verified.FILE).write_text("[")
    objects = list_objects(root)
    update(root)
    assert objects <= hashed
    hashed.clear()
    world = World(seed=5)
    build_index(CONFIG, world.inputs({"model": "other"}), root, gate=make_world_gate(world))
    assert list_objects(root) <= hashed


def test_read_stamps_omits_recently_modified_files(root, monkeypatch):
    """The clock of a file system may be too coarse to show a second modification."""
    collections = list(read_version_manifest(root).collections.values())
    assert verified.read_stamps(root, collections).keys() >= {path.name for path in list_objects(root)}
    monkeypatch.setattr(stamps, "MIN_AGE_SECONDS", 3600.0)
    assert verified.read_stamps(root, collections) == {}


def flip_bit(path: Path) -> None:
    """Change a file in place and restore its mtime."""
    stat = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.chmod(0o444)


def replace_file(path: Path) -> None:
    """Replace a file by a changed copy."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    flip_bit(other)
    os.replace(other, path)


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("part", ["inverted_lists", "vectors"])
@pytest.mark.parametrize("damage", [flip_bit, replace_file, truncate])
def test_update_finds_damage_of_objects_that_passed_a_gate(damage, part, root):
    pointer = (root / "CURRENT").read_bytes()
    damage(sorted(list_objects(root, part))[0])
    message = rf"(image|caption) {part} of shard [01]: .* (damaged|truncated)"
    with pytest.raises(ValueError, match=message) as error:
        update(root)
    assert isinstance(error.value, RejectedError) == (damage is not truncate)
    assert (root / "CURRENT").read_bytes() == pointer


@pytest.mark.parametrize("part", PARTS)
def test_update_finds_flipped_bit_in_new_object(part, root):
    before = set(root.glob("objects/*/*"))

    def damage(step: str) -> None:
        if step == "image/delta":
            new = [path for path in root.glob("objects/*/*") if path not in before]
            assert len(new) == len(PARTS)
            record = next((root / "staging").glob("*/image-delta.json")).read_text()
            flip_bit(next(path for path in new if path.name in record.partition(f'"{part}"')[2][:120]))

    with pytest.raises(ValueError, match=rf"image {part} of shard 2: .* damaged"):
        update(root, damage)
