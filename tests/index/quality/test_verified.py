"""The gate of an update: what is new is read whole, and what the served version has only if it was touched since."""

import os
import shutil
from pathlib import Path

import pytest

from index.building.build import build_index
from index.config import GateConfig
from index.quality import verified
from index.quality.gate import make_gate
from index.versions import folder as manifest
from index.versions.folder import read_version_manifest
from index.versions.manifest import PARTS
from index.versions.objects import check_object, object_path
from index.versions.switch import RejectedError
from tests.helpers.index_updates import CONFIG, ORIGIN, World, edit


def judge(world: World):
    return make_gate(GateConfig(), {}, world.collections(), CONFIG)


@pytest.fixture(scope="module")
def gated(tmp_path_factory) -> Path:
    world, root = World(), tmp_path_factory.mktemp("gated")
    build_index(CONFIG, world.collections(), world.queries, root, ORIGIN, gate=judge(world))
    return root


@pytest.fixture
def root(gated, tmp_path, monkeypatch) -> Path:
    """A copy that its gate has read: other files than those of the build's."""
    monkeypatch.setattr(verified, "MIN_AGE_SECONDS", -9.0)  # seconds: nothing here is older than that
    root = shutil.copytree(gated, tmp_path / "index")
    verified.save_stamps(root, verified.read_stamps(root, list(read_version_manifest(root).collections.values())))
    return root


@pytest.fixture
def read(monkeypatch) -> set[Path]:
    """The objects whose hash was compared by an audit."""
    found: set[Path] = set()
    original = check_object

    def noted(root, ref, what, content=True, again=True):
        path = original(root, ref, what, content, again)
        found.update([path] if content else [])
        return path

    monkeypatch.setattr(manifest, "check_object", noted)
    return found


def grown(root: Path, progress=lambda step: None) -> None:
    world = World()
    edit(world)
    world.update(root, progress=progress, gate=judge(world))
    world.check(root)


def paths(root: Path, part: str | None = None) -> set[Path]:
    shards = [shard for about in read_version_manifest(root).collections.values() for shard in about.shards]
    return {object_path(root, getattr(shard, name)) for shard in shards for name in PARTS if part in (None, name)}


def test_what_passed_a_gate_is_read_again_only_if_it_was_touched(root, read):
    before = paths(root)
    touched = sorted(paths(root, "vectors"))[0]
    os.utime(touched)
    mates = next(
        {object_path(root, getattr(shard, name)) for name in PARTS}
        for about in read_version_manifest(root).collections.values()
        for shard in about.shards
        if object_path(root, shard.vectors) == touched
    )
    grown(root)
    assert read & before == mates, "the shard that one of its parts was touched of"
    assert paths(root) - before <= read, "what is new"
    read.clear()
    first = paths(root)
    world = World()
    edit(world)
    world.remove("image", "0011.jpg")
    world.update(root, gate=judge(world))
    assert not read & first, "the gate of the update before has read them"


def test_a_build_and_an_index_without_a_note_are_read_whole(gated, root, read):
    (root / verified.FILE).write_text("[")
    whole = paths(root)
    grown(root)
    assert whole <= read
    read.clear()
    world = World(seed=5)
    build_index(CONFIG, world.collections(), world.queries, root, {"model": "other"}, gate=judge(world))
    assert paths(root) <= read


def test_what_has_changed_just_now_is_not_noted_for_its_clock_may_be_too_coarse_to_tell_of_a_change_after(
    root, monkeypatch
):
    about = list(read_version_manifest(root).collections.values())
    assert verified.read_stamps(root, about).keys() >= {path.name for path in paths(root)}
    monkeypatch.setattr(verified, "MIN_AGE_SECONDS", 3600.0)
    assert verified.read_stamps(root, about) == {}


def flipped(path: Path) -> None:
    stat = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    with open(path, "r+b") as file:  # the same file, in place
        file.write(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.chmod(0o444)


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    flipped(other)
    os.replace(other, path)


def truncated(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("part", ["inverted_lists", "vectors"])
@pytest.mark.parametrize("harm", [flipped, replaced, truncated])
def test_harm_to_what_passed_a_gate_is_found_by_the_update_after_it(harm, part, root):
    pointer = (root / "CURRENT").read_bytes()
    harm(sorted(paths(root, part))[0])
    with pytest.raises(ValueError, match=rf"(image|caption) {part} of shard [01]: .* (damaged|truncated)") as refused:
        grown(root)
    assert isinstance(refused.value, RejectedError) == (harm is not truncated)
    assert (root / "CURRENT").read_bytes() == pointer


@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_bit_in_what_is_new_is_found(part, root):
    before = set(root.glob("objects/*/*"))

    def progress(step: str) -> None:
        if step == "image/delta":
            new = [path for path in root.glob("objects/*/*") if path not in before]
            assert len(new) == 4
            record = next((root / "staging").glob("*/image-delta.json")).read_text()
            flipped(next(path for path in new if path.name in record.partition(f'"{part}"')[2][:120]))

    with pytest.raises(ValueError, match=rf"image {part} of shard 2: .* damaged"):
        grown(root, progress)
