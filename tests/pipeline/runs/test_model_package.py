"""A trained model is exported as a package, and a plan of another workspace uses it by one line."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from data.alignment import compute_alignment_scores
from data.io import digest, sha256_text
from data.manifest import open_or_create_store, read_store_manifest
from data.store import Store, read_intact_row_vectors
from index.building import IncompatibleUpdateError
from index.search import Index
from index.versions import read_version_manifest
from pipeline.cli.app import build_app
from pipeline.lineage import read_lineage
from pipeline.origin import read_origin
from pipeline.pages.report import write_report
from pipeline.plans.load import load_plan
from pipeline.runs.export import ExportOptions, export_model
from pipeline.runs.export import folder as export_folder
from pipeline.runs.export.calibration import make_calibration
from pipeline.runs.export.content import PackageContent, describe_extractors, describe_origin
from pipeline.runs.export.folder import check_output, write_package
from pipeline.runs.runner import PipelineRunner
from pipeline.search import Searcher, open_index_searcher
from pipeline.search.encoder_pool import make_plan_pool
from pipeline.stages.embed import load_trained_model
from tern.card import is_package, read_model_card, read_package
from tests.helpers.packages import make_content, rewrite, write_small_package
from tests.helpers.small_plan import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package(finished_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "scenes"
    return export_model(finished_pipeline.plan, folder, ExportOptions(license="mit"), None, print)


def write_plan(root):
    """Write the plan of the workspace `carried` of a folder, which uses the package `model` of the folder."""
    text = SMALL.format(workspace=root / "carried", workers=1)
    text = text[: text.index("[regions]")] + text[text.index("[index]") :]
    path = root / "carried.toml"
    path.write_text(f'model = "{root / "model"}"\n{text}')
    return path


def write_workspace(root, finished_pipeline, package):
    """Write a workspace with the images and features of the finished run, and its plan."""
    for name in ("dataset", "stores"):
        shutil.copytree(finished_pipeline.plan.workspace / name, root / "carried" / name)
    shutil.copytree(package.folder, root / "model")
    return write_plan(root)


@pytest.fixture
def carried(finished_pipeline, package, tmp_path):
    """Plan of a new workspace that uses the package; it has the images and features of the finished run."""
    return write_workspace(tmp_path, finished_pipeline, package)


@pytest.fixture(scope="module")
def finished_carried(finished_pipeline, package, tmp_path_factory):
    """A folder with such a workspace, in which all stages are finished."""
    root = tmp_path_factory.mktemp("carried")
    PipelineRunner(load_plan(str(write_workspace(root, finished_pipeline, package)))).run_all()
    return root


@pytest.fixture
def indexed(finished_carried, tmp_path):
    """Plan of a copy of it."""
    shutil.copytree(finished_carried, tmp_path, dirs_exist_ok=True)
    return write_plan(tmp_path)


def read_all(store: Store) -> np.ndarray:
    return store.read("features", sorted(store.ids)).astype(np.float32)


def test_other_workspace_has_the_same_vectors_and_figures(finished_pipeline, carried):
    finished = PipelineRunner(load_plan(str(carried))).run_all()
    for kind in ("images", "captions"):
        stores = [Store(getattr(run.vectors, kind)) for run in (finished_pipeline, finished)]
        np.testing.assert_array_equal(*map(read_all, stores))
    assert finished.evaluation == finished_pipeline.evaluation
    assert finished.model.name != finished_pipeline.model.name
    plan = finished.plan
    caption = finished.features.dataset.select_split("test").captions[0]
    stored = Store(finished.vectors.captions).read("features", [caption.id])[0]
    np.testing.assert_allclose(Searcher(plan).embed_text(caption.text)[0], stored, atol=2e-3)
    assert "package model, " in read_lineage(plan.workspace).to_text()
    assert "from model" in write_report(finished).read_text()
    assert (finished.model / "calibration.safetensors").is_file()


@pytest.mark.parametrize("rerank", [0, 2, 100])
def test_calibration_equals_a_slow_loop(rerank, finished_pipeline):
    vectors, dataset = finished_pipeline.vectors, finished_pipeline.features.dataset
    weight = 0.3
    found = make_calibration(replace(vectors, alignment_weight=weight, rerank=rerank), dataset)
    assert found is not None
    images, captions = Store(vectors.images), Store(vectors.captions)
    image_rows, caption_rows = Store(vectors.image_rows), Store(vectors.caption_rows)
    val = [image.id for image in dataset.images if image.split == "val"]
    own = [caption for caption in dataset.captions if caption.image_id in val]

    def compute_cosine(image: str, caption: str) -> float:
        return float(images.read("features", [image])[0].astype(float) @ captions.read("features", [caption])[0])

    def score(image: str, caption: str) -> float:
        cosine = compute_cosine(image, caption)
        if not rerank:
            return cosine
        rows = read_intact_row_vectors(caption_rows, [caption]), read_intact_row_vectors(image_rows, [image])
        return (1 - weight) * cosine + weight * float(compute_alignment_scores(*rows)[0])

    def find_scores(pairs: list[tuple[bool, str, str]]) -> tuple[float, float]:
        """Return the best score of the relevant pairs, and of the others among the first `rerank` or all."""
        others = [pair for pair in pairs if not pair[0]]
        if rerank:
            first = sorted(pairs, key=lambda pair: -compute_cosine(*pair[1:]))[:rerank]
            others = [pair for pair in others if pair in first]
        return max(score(*pair[1:]) for pair in pairs if pair[0]), max([-1, *(score(*pair[1:]) for pair in others)])

    assert (found.split, found.num_images, found.num_captions) == ("val", 6, 30)
    by_hash = sorted(own, key=lambda caption: sha256_text(caption.id))
    assert found.caption.texts == tuple(caption.text for caption in by_hash)
    assert (found.caption.rows is None) == (not rerank)
    for row, caption in enumerate(by_hash):
        np.testing.assert_array_equal(found.caption.vectors[row], captions.read("features", [caption.id])[0])
        expected = find_scores([(caption.image_id == name, name, caption.id) for name in val])
        assert found.caption.relevant_scores[row] == pytest.approx(expected[0], abs=1e-5)
        assert found.caption.best_other_scores[row] == pytest.approx(expected[1], abs=1e-5)
    for row, name in enumerate(found.image.texts):
        expected = find_scores([(caption.image_id == name, name, caption.id) for caption in own])
        assert found.image.relevant_scores[row] == pytest.approx(expected[0], abs=1e-5)
        assert found.image.best_other_scores[row] == pytest.approx(expected[1], abs=1e-5)


def test_calibration_comes_from_test_without_val(finished_pipeline):
    vectors, dataset = finished_pipeline.vectors, finished_pipeline.features.dataset
    without_val = dataset.exclude_images({image.id for image in dataset.images if image.split == "val"})
    assert make_calibration(vectors, without_val).split == "test"
    assert make_calibration(vectors, replace(dataset, captions=())) is None


def test_replaced_package_is_another_vector_space_and_never_a_mix(indexed, package, tmp_path):
    runner = PipelineRunner(load_plan(str(indexed)))
    first = runner.run_all()
    content = read_package(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    retrained = export_changed(first, tmp_path / "model")
    assert retrained.digest != content.digest
    runner = PipelineRunner(load_plan(str(indexed)))
    features = runner.extract(runner.load_dataset())
    vectors = runner.embed(features, runner.train(features))
    assert vectors.model.name != first.model.name
    with pytest.raises(IncompatibleUpdateError):
        runner.update_index(vectors)
    before = read_version_manifest(runner.workspace.index)
    messages = []
    runner.update_index(vectors, allow_full_build=True, on_message=messages.append)
    after = read_version_manifest(runner.workspace.index)
    assert "full build" in messages[0]
    old, new = (
        {str(shard.vectors) for collection in version.collections.values() for shard in collection.shards}
        for version in (before, after)
    )
    assert not old & new
    with Index.open(runner.workspace.index) as index:
        assert read_origin(index).model == vectors.model.name


def export_changed(finished, folder):
    """Export the model of a run with other weights, as if it had been trained again."""
    model, card = load_trained_model(finished.model, None), read_model_card(finished.model)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    load_trained_model.cache_clear()
    recipes = Store(finished.features.regions).recipe, Store(finished.features.tokens).recipe
    origin = describe_origin(finished.model, card, finished.features.dataset)
    content = PackageContent(model, card, describe_extractors(finished.plan, *recipes), origin, finished.evaluation)
    return write_package(folder, content, ExportOptions())


def test_half_package_is_half_as_large_and_gives_nearly_the_same_vectors(finished_pipeline, carried, package, tmp_path):
    shutil.rmtree(tmp_path / "model")
    half = export_model(finished_pipeline.plan, tmp_path / "model", ExportOptions(half=True), None, print)
    assert half.config.files["model.safetensors"].bytes < 0.6 * package.config.files["model.safetensors"].bytes
    runner = PipelineRunner(load_plan(str(carried)))
    features = runner.extract(runner.load_dataset())
    vectors = runner.embed(features, runner.train(features))
    found, expected = read_all(Store(vectors.images)), read_all(Store(finished_pipeline.vectors.images))
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_package_of_an_imported_model_keeps_origin_and_calibration(indexed, package, tmp_path):
    plan = load_plan(str(indexed))
    PipelineRunner(plan).run_all()
    again = export_model(plan, tmp_path / "again", ExportOptions(), None, print)
    assert again.config.origin.dataset == package.config.origin.dataset == "demo"
    assert again.config.origin.images == {"train": 24, "val": 6, "test": 6}
    assert (again.config.origin.checkpoint, again.config.origin.sha256) == ("model", package.digest)
    assert again.config.files["model.safetensors"] == package.config.files["model.safetensors"]
    for name in ("calibration.safetensors", "metrics.json"):
        assert again.config.files[name] == package.config.files[name]


def test_other_extractor_is_refused_before_extraction(carried, tmp_path):
    shutil.rmtree(tmp_path / "carried" / "stores")
    content = json.loads((tmp_path / "model" / "extractors.json").read_text())
    content["text"]["recipe"]["weights_sha256"] = "0" * 64
    rewrite(tmp_path / "model", "extractors.json", json.dumps(content).encode())
    with pytest.raises(ValueError, match=r"\[text\] are not those of the model package model: weights_sha256 is '[^0]"):
        PipelineRunner(load_plan(str(carried))).load_dataset()
    assert not (tmp_path / "carried" / "stores").exists()


def test_dry_run_says_that_the_package_is_not_imported_yet(carried, tmp_path):
    command = ["train", "--dry-run", "--plan", str(carried)]
    output = CliRunner().invoke(build_app(), command).stdout
    assert f"{tmp_path / 'model'} is not imported yet" in output
    assert not CliRunner().invoke(build_app(), ["train", "--plan", str(carried)]).exception
    assert "is finished" in CliRunner().invoke(build_app(), command).stdout


def test_commands_export_show_and_verify(finished_pipeline, indexed, tmp_path):
    (tmp_path / "notes.md").write_text("## What it is bad at\n\nCounting.\n")
    words = ["--output", str(tmp_path / "out"), "--license", "cc0-1.0", "--notes", str(tmp_path / "notes.md")]
    exported = CliRunner().invoke(build_app(), ["model", "export", "--plan", str(indexed), "--half", *words])
    assert not exported.exception, exported.output
    assert f'model = "{tmp_path / "out"}"' in exported.stdout
    shown = CliRunner().invoke(build_app(), ["model", "info", str(tmp_path / "out")]).stdout
    assert "trained on   demo: 24 train, 6 test, 6 val images, 180 captions" in shown
    rsum = finished_pipeline.evaluation.splits["test"].metrics.rsum
    assert f"{rsum:6.1f}" in shown
    verified = CliRunner().invoke(build_app(), ["model", "verify", str(tmp_path / "out")]).stdout
    assert "all 8 files are intact" in verified
    front, _, text = (tmp_path / "out" / "README.md").read_text().removeprefix("---\n").partition("---\n")
    metadata = yaml.safe_load(front)
    assert (metadata["license"], metadata["library_name"]) == ("cc0-1.0", "tern-retrieval")
    test = next(result for result in metadata["model-index"][0]["results"] if result["dataset"]["split"] == "test")
    values = {metric["type"]: metric["value"] for metric in test["metrics"]}
    assert values["rsum"] == pytest.approx(rsum, abs=0.1)
    assert "## What it is bad at\n\nCounting." in text
    assert "6 images" in text


@pytest.fixture
def small(tmp_path):
    return write_small_package(tmp_path / "small").folder


def test_existing_folder_is_replaced_with_force_only(finished_pipeline, small, tmp_path):
    plan = finished_pipeline.plan
    with pytest.raises(FileExistsError, match="small already exists"):
        check_output(small, False, plan)
    check_output(small, True, plan)
    old = read_package(small).digest
    new = write_package(small, make_content(seed=1), ExportOptions())
    assert new.digest == read_package(small).digest != old
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


FOREIGN = {
    "a folder": (lambda f: (f / "config.json").unlink(), "is not a model package, so --force does not replace it"),
    "other files": (lambda f: (f / "thesis.tex").write_text("x"), "has other files .* such as 'thesis.tex'"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_a_package_is_never_replaced(finished_pipeline, small, case):
    change, message = FOREIGN[case]
    change(small)
    names = sorted(path.name for path in small.iterdir())
    with pytest.raises(ValueError, match=message):
        check_output(small, True, finished_pipeline.plan)
    assert sorted(path.name for path in small.iterdir()) == names


def test_link_to_a_package_is_never_replaced(finished_pipeline, small, tmp_path):
    (tmp_path / "link").symlink_to(small)
    with pytest.raises(ValueError, match="is not a model package"):
        check_output(tmp_path / "link", True, finished_pipeline.plan)


def test_export_killed_anywhere_leaves_the_old_package_or_the_new_one(finished_pipeline, small, monkeypatch):
    new = write_package(small.parent / "new" / "small", make_content(1), ExportOptions())
    digests = {read_package(small).digest, new.digest}
    calls = {"rename": export_folder.os.rename, "sha256_file": export_folder.sha256_file}
    for name, stop_at in (("sha256_file", 1), ("sha256_file", 4), ("rename", 0), ("rename", 1)):
        target = export_folder.os if name == "rename" else export_folder
        seen = []

        def stop(*arguments, name=name, stop_at=stop_at, seen=seen):
            if len(seen) == stop_at:
                raise KeyboardInterrupt
            seen.append(arguments)
            return calls[name](*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(target, name, stop)
            with pytest.raises(KeyboardInterrupt):
                write_package(small, make_content(1), ExportOptions())
        check_output(small, True, finished_pipeline.plan)  # as the next export does
        assert read_package(small).digest in digests
    written = write_package(small, make_content(1), ExportOptions())
    assert written.digest == new.digest
    assert sorted(path.name for path in small.parent.iterdir()) == ["new", "small"]
    assert is_package(small)


def test_query_extractor_may_be_that_of_another_machine(carried, tmp_path):
    plan, stores = load_plan(str(carried)), tmp_path / "carried" / "stores"
    recipe = read_store_manifest(next(stores.glob("regions-*"))).recipe

    def make_store(**change) -> str:
        return open_or_create_store(stores, "regions", recipe | change).name

    variant = make_store(dtype="float16", device="cuda")
    assert make_plan_pool(plan).get_region_extractor(variant).recipe["weights_sha256"] == recipe["weights_sha256"]
    for other_plan, name in (
        (plan.model_copy(update={"model": None}), variant),  # a model that was trained here
        (plan, make_store(weights_sha256="0" * 64)),
        (plan, f"regions-{digest('gone')}"),
    ):
        with pytest.raises(ValueError, match=f"built from {name}, but .* another extractor"):
            make_plan_pool(other_plan).get_region_extractor(name)


def test_index_of_an_imported_model_is_searched_without_its_plan(indexed, monkeypatch):
    """The folder of the model has the config.json of its package, but is no package."""
    plan = load_plan(str(indexed))
    finished = PipelineRunner(plan).run_all()
    expected = Searcher(plan).search_text("a dog", 3)
    monkeypatch.chdir(finished.model)
    for model in (None, "."):
        hits = open_index_searcher(plan.workspace / "index", model).search_text("a dog", 3)
        assert [(hit.id, hit.score) for hit in hits] == [(hit.id, hit.score) for hit in expected]


def test_update_and_reindex_follow_the_package_of_the_plan(indexed, tmp_path, monkeypatch):
    runs = pytest.importorskip("flows.runs")
    finished = PipelineRunner(load_plan(str(indexed))).run_all()
    update = ["index", "update", "--plan", str(indexed)]
    assert "nothing to do" in CliRunner().invoke(build_app(), update).stdout
    shutil.rmtree(tmp_path / "model")
    export_changed(finished, tmp_path / "model")
    error = CliRunner().invoke(build_app(), update).exception
    assert isinstance(error, IncompatibleUpdateError)
    for name in ("create_store_tables", "create_publish_artifacts"):
        monkeypatch.setattr(runs.artifacts, name, lambda *arguments: None)
    monkeypatch.setattr(runs, "get_run_logger", lambda: logging.getLogger("test"))
    runs.run_reindex(PipelineRunner(load_plan(str(indexed))))
    with Index.open(tmp_path / "carried" / "index") as index:
        assert read_origin(index).model not in (finished.model.name, "")
