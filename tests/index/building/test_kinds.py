"""An index of images alone, of images and a few captions, and updates in which the captions appear or vanish."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.building.build import build_index
from index.building.compact import compact_index
from index.building.update import update_index
from index.collection import IndexInputs
from index.config import GateConfig, IndexConfig
from index.quality.checks import GateQueries
from index.quality.gate import make_gate
from index.search.index import Index
from index.versions.folder import read_current, read_version_manifest
from index.versions.switch import RejectedError, verify_version
from tests.helpers.index_publish import bytes_of
from tests.helpers.index_updates import CONFIG, PROVENANCE, World
from tests.reference.index import exact_ids

NUM_CAPTIONS = (0, 1, 2, 10, 120)
CHANGES = [(0, 1), (0, 2), (0, 120), (1, 0), (2, 0), (10, 0), (120, 0), (1, 3), (10, 1)]
WITH_LISTS = IndexConfig(shards=2, nlist=8, factory="IVF{nlist},PQ6x4fs", rescore=50)


def make_world(num_captions: int) -> World:
    """Make a world whose first captions are left; without any, there is no collection of captions."""
    world = World()
    captions = world.items.pop("caption")
    if num_captions:
        world.items["caption"] = dict(list(captions.items())[:num_captions])
    return world


def make_unlimited_gate(world: World, **limits):
    queries = {kind: GateQueries(world.queries[kind]) for kind in world.items}
    return make_gate(GateConfig(max_removed_fraction=1, **limits), queries, world.collections(), CONFIG)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[int, Path]:
    """By number of captions, an index that was built with them."""
    roots = {number: tmp_path_factory.mktemp(f"captions-{number}") for number in NUM_CAPTIONS}
    for number, root in roots.items():
        world = make_world(number)
        build_index(CONFIG, world.inputs(), root, gate=make_unlimited_gate(world))
    return roots


@pytest.mark.parametrize("num_captions", NUM_CAPTIONS)
def test_build_has_only_the_collections_that_exist(num_captions, bases):
    world, root = make_world(num_captions), bases[num_captions]
    world.check(root)
    manifest = verify_version(root, 1)
    assert manifest.collections.keys() == world.items.keys()
    few = manifest.collections.get("caption")
    assert few is None or few.is_exact == (num_captions < CONFIG.nlist), "fewer captions than lists: exact search"
    assert manifest.gate.passed
    not_checked = {f"caption {name}" for name in ("alignment", "recall", "success@10", "latency")}
    missing = {
        f"{kind} {name}" for kind in world.items for name in ("success@10", "reranked success@10", "calibration")
    } | (not_checked if not num_captions else set())
    assert manifest.gate.not_checked.keys() == missing
    if not num_captions:
        assert manifest.gate.not_checked["caption recall"] == "the version has no captions"
    compact_index(root)
    assert read_current(root).version == 1, "nothing to compact"


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_update_finds_what_a_build_finds_and_rewrites_no_image(before, after, bases, tmp_path):
    root, world = shutil.copytree(bases[before], tmp_path / "index"), make_world(after)
    world.update(root)
    assert not world.read_ids & world.items["image"].keys(), "no vector of an image is read"
    world.check(root)
    old, new = read_version_manifest(root, 1), verify_version(root, 2)
    assert new.collections.keys() == world.items.keys()
    assert new.collections["image"] == old.collections["image"], "the same objects"
    assert world.update(root).stem == "v00000002", "the next update has nothing to do"
    with Index.open(root) as index:
        assert set(index.kinds) == set(world.items)
    compact_index(root, gate=make_gate(GateConfig(), {}, {}))
    world.check(root)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (10, 0)])
def test_gate_of_such_an_update_passes_and_says_what_it_did_not_check(before, after, bases, tmp_path):
    root, world = shutil.copytree(bases[before], tmp_path / "index"), make_world(after)
    world.update(root, gate=make_unlimited_gate(world))
    gate = read_version_manifest(root, 2).gate
    assert gate.passed
    assert {"image recall", "image unchanged", "image alignment"} <= gate.checks.keys()
    assert ("caption recall" in gate.checks, "caption recall" in gate.not_checked) == (after > 0, after == 0)


def test_images_change_while_the_captions_appear_or_vanish(bases, tmp_path):
    for before, after in ((0, 10), (120, 0)):
        root, world = shutil.copytree(bases[before], tmp_path / f"index-{before}"), make_world(after)
        world.change("image", "0003.jpg")
        world.remove("image", "0005.jpg")
        world.add("image", "0001.jpg")
        world.update(root)
        world.check(root)
        assert [shard.role for shard in verify_version(root, 2).collections["image"].shards].count("delta") == 1


class Killed(BaseException):
    """Ends the process at a step."""


@pytest.mark.parametrize(("before", "after"), [(120, 0), (0, 10)], ids=["captions vanish", "captions appear"])
def test_kill_at_any_step_of_an_update_keeps_the_version_and_the_next_run_completes(before, after, bases, tmp_path):
    def make_changed_world() -> World:
        world = make_world(after)
        world.remove("image", "0005.jpg")
        world.add("image", "0001.jpg")
        return world

    uninterrupted, steps = shutil.copytree(bases[before], tmp_path / "uninterrupted"), []
    make_changed_world().update(uninterrupted, on_step=steps.append)
    assert len(steps) == (4 if after == 0 else 8), steps
    for crash in range(len(steps)):
        root, seen = shutil.copytree(bases[before], tmp_path / f"crash-{crash}"), []

        def kill(step, seen=seen, crash=crash):
            seen.append(step)
            if len(seen) == crash + 1:
                raise Killed

        with pytest.raises(Killed):
            make_changed_world().update(root, on_step=kill)
        is_published = read_current(root).version == 2
        assert is_published == (seen[-1] == "switched")
        (make_changed_world() if is_published else make_world(before)).check(root)
        make_changed_world().update(root)
        left = {name: value for name, value in bytes_of(root).items() if not name.startswith("staging/")}
        assert left == bytes_of(uninterrupted)


@pytest.mark.parametrize("way", ["update", "build"])
def test_gate_rejects_a_version_whose_captions_vanished(way, bases, tmp_path):
    root, world = shutil.copytree(bases[10], tmp_path / "index"), make_world(0)
    publish = update_index if way == "update" else build_index
    gate = make_gate(GateConfig(), {}, world.collections(), CONFIG)
    with pytest.raises(
        RejectedError, match=r"10 of 10 captions of the served version are gone.*--override-gate"
    ) as one:
        publish(CONFIG, world.inputs(), root, gate=gate)
    assert [name for name, check in one.value.checks.items() if not check.passed] == ["caption removed"]
    make_world(10).check(root)


def test_update_of_another_dimension_is_rejected_before_the_captions_are_built(bases, tmp_path):
    root, inputs = shutil.copytree(bases[0], tmp_path / "index"), make_world(10).inputs()
    captions = inputs.collections["caption"]
    wide = replace(captions, vectors=lambda ids: np.hstack([captions.read(ids), np.zeros((len(ids), 1), np.float32)]))
    queries = {"caption": np.eye(25, dtype=np.float32)[:2]}
    with pytest.raises(ValueError, match=r"caption vectors have 25 numbers, those of the published version 24.*build"):
        update_index(
            CONFIG,
            replace(inputs, collections={**inputs.collections, "caption": wide}, queries=queries, query_rows={}),
            root,
        )
    assert read_current(root).version == 1


@pytest.mark.parametrize("num_captions", [1, 3, 15, 16])
def test_settings_of_many_rows_leave_few_rows_to_exact_search(num_captions, tmp_path):
    world = make_world(num_captions)
    build_index(WITH_LISTS, world.inputs(), tmp_path)
    manifest = read_version_manifest(tmp_path)
    assert manifest.collections["image"].factory == "IVF8,PQ6x4fs"
    assert manifest.collections["caption"].factory == ("IVF1,SQfp16" if num_captions < 16 else "IVF8,PQ6x4fs")
    if num_captions < 16:
        del world.items["image"]
        world.check(tmp_path)


@pytest.mark.parametrize("source", ["held-out", "calibration", "self"])
def test_recall_of_images_alone_is_that_of_exact_search_and_names_its_queries(source, tmp_path):
    collections, queries = World(images=400).collections(), World(images=400).queries
    images = collections["image"]
    vectors = images.read(images.sorted_ids)[::4] if source == "self" else queries["image"]
    config = IndexConfig(shards=2, nlist=16, factory="IVF{nlist},Flat", target_recall=0.99)
    inputs = IndexInputs({"image": images}, {"image": vectors}, PROVENANCE, {"image": source})
    gate = make_gate(GateConfig(), {"image": GateQueries(vectors, None, source)}, {"image": images}, config)
    build_index(config, inputs, tmp_path, gate=gate)
    with Index.open(tmp_path) as index:
        manifest = index.manifest
        report, check = manifest.collections["image"].recall, manifest.gate.checks["image recall"]
        test_queries = vectors[np.random.Generator(np.random.PCG64(0)).permutation(len(vectors))[1::2]]
        found = [{hit.id for hit in line} for line in index.search(test_queries, 10)]
    exact = exact_ids(replace(images, vectors=images.read(list(images.ids))), test_queries, 10)
    recall = np.mean([len(one & set(other)) / 10 for one, other in zip(found, exact, strict=True)])
    assert 1 < report.nprobe < 16, "the lists matter"
    assert (report.recall, check.value) == (pytest.approx(recall, abs=1e-4), pytest.approx(recall, abs=1e-4))
    assert report.query_source == manifest.gate.query_sources["image"] == source
    assert (report.num_test_queries, check.count) == (len(test_queries), len(test_queries))
