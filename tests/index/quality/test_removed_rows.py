"""A version that lacks too many images or captions of the served one is rejected, as when a share is half mounted."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from index.building.build import build_index
from index.building.publish import override_gate
from index.building.update import update_index
from index.collection import IndexInputs
from index.config import GateConfig
from index.quality.gate import make_gate
from index.versions.folder import read_current, read_version_manifest
from index.versions.switch import RejectedError
from tests.helpers.index_updates import CONFIG, PROVENANCE, World

IMAGES, CAPTIONS = 60, 120  # of the world
BUILD, UPDATE = "full build", "update"


def publish(root: Path, world: World, way: str, model: str = "abc", **limits) -> None:
    collections = world.collections()
    gate = make_gate(GateConfig(**limits), {}, collections, CONFIG)
    inputs = IndexInputs(collections, world.queries, {**PROVENANCE, "model": model})
    if way == BUILD:
        build_index(CONFIG, inputs, root, gate=gate)
    else:
        update_index(CONFIG, inputs, root, gate=gate)


def image_names(count: int) -> list[str]:
    return [f"{number:04d}.jpg" for number in range(count)]


def caption_names(images: Iterable[str]) -> list[str]:
    return [f"{name}#{number}" for name in images for number in range(2)]


@pytest.fixture
def served(tmp_path) -> tuple[Path, World]:
    world = World()
    publish(tmp_path / "index", world, BUILD)
    return tmp_path / "index", world


@pytest.mark.parametrize("way", [BUILD, UPDATE])
@pytest.mark.parametrize("kind", ["image", "caption"])
def test_version_without_most_rows_of_a_kind_is_rejected(served, way, kind):
    root, world = served
    names = image_names(50)
    world.remove(kind, *(names if kind == "image" else caption_names(names)))
    with pytest.raises(RejectedError) as rejected:
        publish(root, world, way)
    num_removed, num_served = (50, 60) if kind == "image" else (100, 120)
    check = rejected.value.checks[f"{kind} removed"]
    assert (check.value, check.max, check.count) == (round(num_removed / num_served, 4), 0.2, num_served)
    assert f"{num_removed} of {num_served} {kind}s" in str(rejected.value)
    assert "is mounted" in str(rejected.value), "the message says what to check"
    assert "--override-gate" in str(rejected.value), "and how to publish it all the same"
    assert [name for name, failed in rejected.value.checks.items() if not failed.passed] == [f"{kind} removed"]
    assert read_current(root).version == 1
    override_gate(root, 2, "removed on purpose")
    assert read_version_manifest(root).collections[kind].counts.live == num_served - num_removed


@pytest.mark.parametrize("way", [BUILD, UPDATE])
@pytest.mark.parametrize(
    ("num_images", "limits", "is_published"),
    [
        (12, {}, True),  # exactly 20 %
        (13, {}, False),
        (13, {"max_removed_fraction": 0.25}, True),
        (50, {"max_removed_fraction": 1}, True),
        (1, {"max_removed_fraction": 0}, False),
        (3, {"max_removed_rows": 6}, True),  # 3 images and their 6 captions
        (4, {"max_removed_rows": 6}, False),
        (13, {"max_removed_rows": 1000}, False),
    ],
)
def test_limits_are_a_fraction_and_a_number(served, way, num_images, limits, is_published):
    root, world = served
    names = image_names(num_images)
    world.remove("image", *names)
    world.remove("caption", *caption_names(names))
    if is_published:
        publish(root, world, way, **limits)
        check = read_version_manifest(root).gate.checks["image removed"]
        assert (check.passed, check.value) == (True, round(num_images / IMAGES, 4))
    else:
        with pytest.raises(RejectedError, match="of the served version are gone"):
            publish(root, world, way, **limits)
    assert read_current(root).version == 1 + is_published


def test_rows_that_changed_or_were_added_do_not_count_as_removed(served):
    root, world = served
    world.change("image", *image_names(IMAGES))
    world.change("caption", *caption_names(image_names(30)))
    world.add("image", *image_names(20))
    publish(root, world, UPDATE)
    checks = read_version_manifest(root).gate.checks
    assert (checks["image removed"].value, checks["caption removed"].value) == (0, 0)


@pytest.mark.parametrize("way", [BUILD, UPDATE])
def test_items_that_moved_to_another_id_do_not_count_as_removed(served, way):
    root, world = served
    names = image_names(40)
    for name in names:
        vector, row = world.items["image"][name]
        world.items["image"][name] = (vector, row._replace(content_hash=f"hash {name}"))
    publish(root, world, UPDATE)
    moved = world.remove("image", *names)
    for name, (vector, row) in list(moved.items())[:35]:
        world.items["image"][f"moved/{name}"] = (vector, row._replace(id=f"moved/{name}"))
    publish(root, world, way)
    assert read_version_manifest(root).gate.checks["image removed"].value == round(5 / IMAGES, 4)


def test_limit_holds_for_a_version_of_another_model(served):
    root, world = served
    world.remove("image", *image_names(30))
    with pytest.raises(RejectedError, match="30 of 60 images"):
        publish(root, world, BUILD, model="another")


def test_collection_that_disappears_counts_as_removed(served):
    root, world = served
    del world.items["caption"]
    with pytest.raises(RejectedError, match="120 of 120 captions"):
        publish(root, world, BUILD)


def test_rejected_rows_are_counted_against_served_version_again(served):
    root, world = served
    removed = world.remove("image", *image_names(30))
    for _ in range(2):
        with pytest.raises(RejectedError, match="30 of 60 images"):
            publish(root, world, UPDATE)
    world.items["image"] |= removed  # the share is mounted again
    publish(root, world, UPDATE)
    assert read_current(root).version == 1
