"""A folder of images without captions: it is extracted, and training on it is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from data.store.store import Store
from pipeline.cli.app import build_app
from pipeline.plans.load import load_plan
from pipeline.runs import estimate_extraction, preview_stages
from pipeline.runs.runner import PipelineRunner
from pipeline.stages.dataset import read_plan_dataset
from tests.helpers.small_plan import DEMO_EXTRACTORS

pytestmark = pytest.mark.slow

PLAN = """
workspace = "{root}/run"
images_per_shard = 2
workers = 1

[dataset]
name = "mine"
images = "{root}/photos"
"""
REFUSED = "mine has no captions, so that no model can be trained on it. Set `model = ...` in the plan"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "2019").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "2019/c.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(tmp_path / "photos" / name)
    (tmp_path / "plan.toml").write_text(PLAN.format(root=tmp_path) + DEMO_EXTRACTORS)
    return tmp_path / "plan.toml"


def list_files(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob("*"))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), [*map(str, words)])
    return result.exit_code, f"{result.output}{result.exception or ''}"


def test_images_without_captions_are_extracted(plan: Path) -> None:
    loaded = load_plan(str(plan))
    photos = list_files(plan.parent / "photos")
    read_plan_dataset(loaded)
    assert not (plan.parent / "run").exists(), "reading writes no hashes"
    estimates = estimate_extraction(loaded, read_plan_dataset(loaded))
    assert [(estimate.num_missing, estimate.num_shards) for estimate in estimates] == [(3, 2), (0, 0)]
    assert {preview.stage for preview in preview_stages(loaded) if not preview.work} == {"dataset", "token features"}
    code, output = run("extract", "--plan", plan)
    assert code == 0, output
    assert REFUSED in output
    features = PipelineRunner(loaded).extract(PipelineRunner(loaded).load_dataset())
    assert [image.id for image in features.dataset.images] == ["a.png", "b.png", "2019/c.png"]
    assert features.dataset.captions == features.invalid_records == ()
    assert sorted(Store(features.regions).ids) == ["2019/c.png", "a.png", "b.png"]
    for command in ("info", "verify"):
        code, output = run("store", command, features.tokens)
        assert code == 0, output
    assert len(Store(features.tokens)) == 0
    assert list_files(plan.parent / "photos") == photos, "nothing is written into the folder of the user"


@pytest.mark.parametrize("command", [("train",), ("evaluate",), ("pipeline",), ("index",)])
def test_training_without_captions_is_refused_before_extraction(plan: Path, command: tuple[str, ...]) -> None:
    code, output = run(*command, "--plan", plan)
    assert code == 1
    assert REFUSED in output
    assert not (plan.parent / "run" / "stores").exists()


def test_captions_may_be_added_and_removed(plan: Path) -> None:
    """The same images with some captions, with none and with all: the images are extracted once."""
    captions = plan.parent / "captions.csv"
    settings = (f"dataset.annotations={captions}", "dataset.format=folder")
    counts = []
    for rows, overrides in [
        ([], ()),
        (["b.png,a gray field"], settings),
        (["b.png,a gray field", "a.png,noise", "2019/c.png,snow"], settings),
        ([], ()),
    ]:
        captions.write_text("\n".join(["image,caption", *rows]))
        runner = PipelineRunner(load_plan(str(plan), overrides))
        features = runner.extract(runner.load_dataset())
        assert len(features.dataset.images) == 3
        assert len(Store(features.tokens)) == len(features.dataset.captions) == len(rows)
        counts.append(runner.item_counts["region features"].extracted)
    assert counts == [3, 0, 0, 0]
