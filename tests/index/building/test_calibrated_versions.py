"""The calibration of a version: written by a build, kept by what keeps its rows, and fitted again when they change."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from index.building.build import build_index
from index.building.compact import compact_index
from index.building.update import update_index
from index.collection import IndexInputs, QueryLabels
from index.config import GateConfig, IndexConfig
from index.exchange.export import export_index
from index.exchange.import_vectors import import_index
from index.quality.gate import make_gate
from index.search.index import Index
from index.search.probabilities import compute_probabilities
from index.tuning.calibrate import calibrate_scores
from index.versions.folder import manifest_path, read_version_manifest
from index.versions.switch import RejectedError, rollback
from tests.helpers.index_world import make

CONFIG = IndexConfig(shards=2, nlist=1)
LABELS = {
    "image": [{f"{i // 2:04d}.jpg"} for i in range(120)],
    "caption": [{f"{i:04d}.jpg#0", f"{i:04d}.jpg#1"} for i in range(60)],
}
"""By kind, ids of the collection itself: the queries of `make_inputs` are its first items of the other kind."""


def make_inputs(images=60, labels=True):
    """Make the first images of a world of 60 and their captions; the queries are its items of the other kind."""
    collections, _ = make(5, images=60)
    queries = {"image": collections["caption"].vectors, "caption": collections["image"].vectors}
    kept = {
        kind: replace(one.exclude(set(one.ids[n:])), vectors=one.vectors[:n])
        for (kind, one), n in zip(collections.items(), (images, 2 * images), strict=True)
    }
    by_kind = {kind: QueryLabels(relevant_ids=ids) for kind, ids in LABELS.items()} if labels else {}
    return IndexInputs(kept, queries, {"model": "a"}, labels=by_kind)


def read_calibrations(root, version=None):
    collections = read_version_manifest(root, version).collections
    return {kind: one.calibration for kind, one in collections.items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    build_index(CONFIG, make_inputs(), root)
    return root


def test_build_writes_the_calibration_of_each_collection(built):
    inputs, found = make_inputs(), read_calibrations(built)
    for kind, calibration in found.items():
        expected = calibrate_scores(
            inputs.collections[kind], inputs.queries[kind], inputs.labels[kind], "held-out", CONFIG.seed
        )
        assert calibration == expected
        assert calibration.rows == len(inputs.collections[kind].ids)
    with Index.open(built) as index:
        hits = index.search(inputs.queries["image"][:30], 10)
    probabilities = compute_probabilities(found["image"], np.array([[hit.score for hit in line] for line in hits]))
    assert (np.diff(probabilities, axis=1) <= 0).all()


def test_build_without_known_answers_has_no_calibration_and_the_gate_says_so(tmp_path):
    inputs = make_inputs(labels=False)
    path = build_index(CONFIG, inputs, tmp_path, gate=make_gate(GateConfig(), {}, inputs.collections, CONFIG))
    assert path == manifest_path(tmp_path, 1)
    assert read_calibrations(tmp_path) == {"image": None, "caption": None}
    not_checked = read_version_manifest(tmp_path).gate.not_checked
    assert not_checked["image calibration"] == "too few queries have known relevant images"


def test_other_labels_are_another_version_and_equal_labels_the_same(tmp_path):
    assert build_index(CONFIG, make_inputs(), tmp_path) == manifest_path(tmp_path, 1)
    assert build_index(CONFIG, make_inputs(), tmp_path) == manifest_path(tmp_path, 1)
    inputs = make_inputs()
    wrong = replace(inputs, labels=inputs.labels | {"image": QueryLabels(LABELS["image"][::-1])})
    assert build_index(CONFIG, wrong, tmp_path) == manifest_path(tmp_path, 2)
    assert read_calibrations(tmp_path)["image"].reliability.right_found < 0.5


def test_update_keeps_the_calibration_until_the_collection_has_outgrown_it(tmp_path):
    build_index(CONFIG, make_inputs(50), tmp_path)
    first = read_calibrations(tmp_path)
    update_index(CONFIG, make_inputs(55), tmp_path)
    assert read_calibrations(tmp_path) == first, "55 images are 1.1 times as many"
    compact_index(tmp_path)
    assert read_version_manifest(tmp_path).version == 3
    assert read_calibrations(tmp_path) == first
    update_index(CONFIG, make_inputs(40), tmp_path)
    second = read_calibrations(tmp_path)
    assert (second["image"].rows, second["caption"].rows) == (40, 80)
    inputs = make_inputs(40)
    expected = calibrate_scores(
        inputs.collections["image"], inputs.queries["image"], inputs.labels["image"], "held-out", CONFIG.seed
    )
    assert second["image"] == expected, "fitted to the rows that are left"
    rollback(tmp_path, 1)
    assert read_calibrations(tmp_path) == first


def test_update_calibrates_a_version_that_has_no_calibration(tmp_path):
    build_index(CONFIG, make_inputs(labels=False), tmp_path)
    update_index(CONFIG, make_inputs(59), tmp_path)
    assert read_calibrations(tmp_path)["image"].rows == 59


def test_interrupted_build_does_not_calibrate_again(tmp_path, monkeypatch):
    def stop(step):
        if step == "image/calibrated":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(CONFIG, make_inputs(), tmp_path, stop)
    monkeypatch.setattr("index.building.calibration.calibrate_scores", lambda *args: None)
    build_index(CONFIG, make_inputs(), tmp_path)
    found = read_calibrations(tmp_path)
    assert found["image"] is not None, "read from the staging folder"
    assert found["caption"] is None


def test_gate_limits_the_calibration_error(tmp_path):
    inputs = make_inputs()
    gate = make_gate(GateConfig(max_calibration_error=0.0), {}, inputs.collections, CONFIG)
    with pytest.raises(RejectedError, match=r"image calibration: 0\.\d+ over 120, maximum 0"):
        build_index(CONFIG, inputs, tmp_path, gate=gate)
    build_index(CONFIG, inputs, tmp_path, gate=make_gate(GateConfig(), {}, inputs.collections, CONFIG))
    check = read_version_manifest(tmp_path).gate.checks["image calibration"]
    assert (check.passed, check.max, check.count) == (True, 0.2, 120)


@pytest.fixture(scope="module")
def exported(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_index(built, folder)
    return folder


def copy_export(exported, folder, num_images=60, footer=None):
    """Copy the images of an export, only the first of them, or with other values in the footer of the metadata."""
    folder.mkdir()
    np.save(folder / "image.npy", np.load(exported / "image.npy")[:num_images])
    rows = pq.read_table(exported / "image.parquet").slice(0, num_images)
    metadata = {b"calibration": pq.read_metadata(exported / "image.parquet").metadata[b"calibration"]}
    pq.write_table(rows.replace_schema_metadata(metadata | (footer or {})), folder / "image.parquet")
    return folder


def test_export_and_import_keep_the_calibration(built, exported, tmp_path):
    import_index(CONFIG, exported, tmp_path / "index")
    assert read_calibrations(tmp_path / "index") == read_calibrations(built)
    with Index.open(built) as old, Index.open(tmp_path / "index") as new:
        assert new.manifest.inputs_digest != old.manifest.inputs_digest
    folder = copy_export(exported, tmp_path / "fewer", num_images=49)
    import_index(CONFIG, folder, tmp_path / "few")
    assert read_calibrations(tmp_path / "few") == {"image": None}, "49 of 60 items have other scores"


@pytest.mark.parametrize("content", [b"", b"{}", b"no", b"\xff", b'{"sharpness": "15"}'])
def test_import_refuses_a_damaged_calibration(content, exported, tmp_path):
    folder = copy_export(exported, tmp_path / "damaged", footer={b"calibration": content})
    with pytest.raises(ValueError, match=r"The calibration in the footer of .* is not valid .*Export again"):
        import_index(CONFIG, folder, tmp_path / "index")
    assert not (tmp_path / "index").exists()
