"""The second dataset of the demo: indexed without captions by a carried model, then judged with them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data.config import DatasetConfig, DemoConfig
from data.store import Store
from index.versions import read_current, verify_version
from pipeline.cli.app import build_app
from pipeline.pages.report import write_report
from pipeline.plans import Plan
from pipeline.runs.carried_demo import (
    configure_second_dataset,
    evaluate_second_dataset,
    find_second_workspace,
    read_second_evaluation,
)
from pipeline.search import Searcher
from pipeline.workspace import Workspace

SETTINGS = (
    "images_per_shard=10",
    "captions_per_shard=50",
    "workers=1",
    "demo={images = 36, splits = {train = 24, val = 6, test = 6}}",
    'regions={model = "demo", weights = "demo", min_score = 0.05}',
    "train={epochs = 3, images_per_batch = 8, model = {width = 32, feedforward_dim = 64, embed_dim = 32}}",
    "index.shards=2",
    "report.num_images=1",
)
PLAN = Plan(workspace="runs/demo", demo=DemoConfig())
DATASET = DatasetConfig(name="mine", images="photos")


@pytest.fixture
def finished(finished_pipeline, tmp_path):
    """The finished run, in a copy of its workspace."""
    shutil.copytree(finished_pipeline.plan.workspace, tmp_path / "run")
    return replace(finished_pipeline, plan=finished_pipeline.plan.model_copy(update={"workspace": tmp_path / "run"}))


def list_outputs(root: Path) -> dict[str, int]:
    """Map all files below a folder, without logs, locks and the version counter, to their modification times."""
    pattern = re.compile(r"\.writer|stages\.jsonl|hashes.*|report\.html|misses.*|invalid_records\.jsonl")
    paths = (path for path in root.rglob("*") if path.is_file() and not pattern.fullmatch(path.name))
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in paths}


def make_words(workspace: Path) -> list[str]:
    return [word for setting in (f"workspace={workspace}", *SETTINGS) for word in ("--set", setting)]


def read_vectors(workspace: Path, modality: str) -> dict[str, np.ndarray]:
    stores = map(Store, (workspace / "vectors").glob("vectors-*"))
    (store,) = (store for store in stores if store.recipe["modality"] == modality)
    return dict(zip(store.ids, store.read("features", list(store.ids)).astype(np.float64), strict=True))


def compute_recalls(root: Path) -> dict[str, float]:
    """Compute R@1 and R@10 in percent by sorting."""
    records = json.loads((root / "dataset" / "dataset_demo.json").read_text())["images"]
    images, captions = read_vectors(root, "image"), read_vectors(root / "judged", "caption")
    names = [record["filename"] for record in records]
    pairs = [(f"{name}#{k}", name) for name in names for k in range(5)]
    scores = np.stack([captions[key] for key, _ in pairs]) @ np.stack([images[name] for name in names]).T
    is_relevant = np.array([[owner == name for name in names] for _, owner in pairs])
    recalls = {}
    for direction, lines, relevant in (("t2i", scores, is_relevant), ("i2t", scores.T, is_relevant.T)):
        best_first = np.argsort(-lines, axis=1, kind="stable")
        ranks = np.take_along_axis(relevant, best_first, axis=1).argmax(axis=1)
        recalls |= {f"{direction}_r{k}": 100 * float(np.mean(ranks < k)) for k in (1, 10)}
    return recalls


@pytest.mark.slow
def test_second_dataset_is_indexed_without_captions_and_then_judged(finished):
    config = configure_second_dataset(finished.plan)
    assert config == DemoConfig(seed=2021, images=6, splits={"test": 6})
    carried = evaluate_second_dataset(finished, config)
    root = finished.plan.workspace.with_name("run-carried")

    manifest = verify_version(root / "index")
    assert {kind: collection.counts.live for kind, collection in manifest.collections.items()} == {"image": 6}
    assert manifest.collections["image"].recall.query_source == "calibration"
    assert [len(Store(path)) for path in (root / "stores").glob("tokens-*")] == [0], "no caption was extracted"
    assert read_vectors(root, "caption") == {}
    assert read_current(root / "judged" / "index") is None, "nothing of the judging is published"
    assert not list((root / "judged" / "stores").glob("regions-*")), "the images are extracted once"

    flat = carried.carried.flat()
    assert (carried.carried.images, carried.carried.captions) == (6, 30)
    expected = compute_recalls(root)
    assert {name: flat[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert carried.held_out == finished.evaluation.splits["test"]
    assert (carried.carried.chance.t2i_r1, carried.carried.chance.t2i_r10) == pytest.approx((100 / 6, 100))

    second = finished.plan.model_copy(
        update={"workspace": root, "demo": None, "dataset": DATASET, "model": str(Workspace(root).package)}
    )
    captions = read_vectors(root / "judged", "caption")
    text = json.loads((root / "dataset" / "dataset_demo.json").read_text())["images"][0]["sentences"][0]["raw"]
    np.testing.assert_allclose(Searcher(second).embed_text(text)[0], captions["scene-00000.jpg#0"], atol=2e-3)

    before = list_outputs(root.parent)
    assert evaluate_second_dataset(finished, config) == carried
    assert list_outputs(root.parent) == before, "a second run finds everything finished"

    page = write_report(finished).read_text(encoding="utf-8")
    section = page[page.index("Carried to another dataset") : page.index("<h2>Training")]
    assert re.findall(r"<tr><td>([^<]*)</td><td>(\d+)</td><td>(\d+)</td>", section) == [
        ("demo, test", "6", "30"),
        ("second dataset", "6", "30"),
    ]
    assert f"<td>{expected['t2i_r1']:.1f}</td>" in section
    assert list_outputs(root.parent) == before, "the report writes itself and the page of misses"
    command = CliRunner().invoke(build_app(), ["report", *make_words(finished.plan.workspace)])
    assert command.exit_code == 0, f"{command.output}{command.exception}"
    assert "Carried to another dataset" in finished.workspace.report.read_text(encoding="utf-8")
    assert read_second_evaluation(finished) == carried
    larger = finished.plan.demo.model_copy(update={"splits": {"train": 17, "val": 6, "test": 7}})
    changes = [
        replace(finished, plan=finished.plan.model_copy(update={"demo": larger})),
        replace(finished, vectors=replace(finished.vectors, model=finished.model.with_name("tern-another"))),
    ]
    assert [read_second_evaluation(change) for change in changes] == [None, None]
    shutil.rmtree(root / "judged" / "evaluation")
    assert "Carried to another dataset" not in write_report(finished).read_text(encoding="utf-8")


@pytest.mark.slow
def test_demo_command_prints_both_datasets_and_repairs_its_package(finished, tmp_path):
    words = make_words(tmp_path / "run")
    result = CliRunner().invoke(build_app(), ["demo", *words])
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    lines = re.findall(
        r"^(demo, test|second dataset)  +text to image R@1 [\d.]+, R@10 .*\((.*)\)$", result.output, re.M
    )
    assert lines == [("demo, test", "6 images"), ("second dataset", "6 images")]
    assert "Carried to another dataset" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"second dataset  6 scenes of seed 2021, indexed without captions in {tmp_path / 'run-carried'}" in (
        result.output
    )
    package = Workspace(tmp_path / "run").package
    content = {path.name: path.read_bytes() for path in package.iterdir()}
    (package / "model.safetensors").write_bytes(content["model.safetensors"][:-1])
    assert CliRunner().invoke(build_app(), ["demo", *words]).exit_code == 0
    assert (package / "model.safetensors").read_bytes() == content["model.safetensors"]
    assert len(list((tmp_path / "run-carried" / "models").iterdir())) == 1, "the same package is the same model"


def test_dry_run_of_demo_says_what_the_second_dataset_is(tmp_path):
    result = CliRunner().invoke(build_app(), ["demo", "--dry-run", "--set", f"workspace={tmp_path / 'run'}"])
    assert result.exit_code == 0, result.output
    assert f"300 scenes of seed 2021, indexed without captions in {tmp_path / 'run-carried'}" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, DemoConfig(seed=2021, images=300, splits={"test": 300})),
        (
            {"demo": DemoConfig(seed=2**31 - 1, images=2, splits={"train": 1, "test": 1})},
            DemoConfig(seed=0, images=1, splits={"test": 1}),
        ),
        ({"demo": DemoConfig(images=2, splits={"train": 1, "val": 1})}, None),
        ({"demo": None, "dataset": DATASET}, None),
        ({"regions_store": Path("store")}, None),
    ],
)
def test_second_dataset_has_as_many_images_as_the_test_split(settings, expected):
    assert configure_second_dataset(PLAN.model_copy(update=settings)) == expected


@pytest.mark.parametrize(
    ("workspace", "expected"), [("runs/demo", "runs/demo-carried"), ("demo", "demo-carried"), ("..", None), (".", None)]
)
def test_second_workspace_is_beside_the_first(workspace, expected, tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    resolved = Path(workspace).resolve()
    expected = Path(expected) if expected else resolved.with_name(f"{resolved.name}-carried")
    assert find_second_workspace(PLAN.model_copy(update={"workspace": Path(workspace)})).root == expected
