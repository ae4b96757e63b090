"""Extractors of a plan as a package records them: nothing of the machine, no path, and the same settings again."""

from pathlib import Path

import pytest

from data.config import DemoConfig
from extractors.config import BottomUpConfig, GridConfig, TextConfig, TorchvisionConfig
from pipeline.plans.extractor_settings import describe_extractor
from pipeline.plans.plan import Plan
from pipeline.runs.export.content import find_detector
from tern.card import PackagePath

RECIPE = {"extractor": "x", "weights_sha256": "a" * 64}
CONFIGS = [
    TorchvisionConfig(model="demo", weights="demo", device="cuda", full_precision=True),
    GridConfig(layer=("blocks.5", "blocks.6"), grid_size=(1, 2, 3), weights="photos", fit="short side"),
    TextConfig(model="minilm", layer=6, batch_size=9, dtype="bfloat16", device="cuda"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["torchvision", "grid", "text"])
def test_settings_give_the_same_extractor_on_another_machine(config):
    found = describe_extractor(config, RECIPE)
    again = type(config).model_validate(found.settings)
    machine = {"device", "full_precision", "batch_size", "dtype"}
    assert again.model_dump(exclude=machine) == config.model_dump(exclude=machine)
    assert again.model_dump(include=machine) == type(config)().model_dump(include=machine)
    assert (found.paths, found.weights_sha256) == ({}, "a" * 64)
    assert found.source in ("demo", "photos", "minilm")


def test_paths_of_the_machine_are_left_out(tmp_path):
    (tmp_path / "bert").mkdir()
    config = BottomUpConfig(weights=tmp_path / "vg36.safetensors", vocabulary_dir=tmp_path / "vocabulary")
    found = describe_extractor(config, RECIPE)
    assert found.paths == {
        "weights": PackagePath(name="vg36.safetensors"),
        "vocabulary_dir": PackagePath(name="vocabulary"),
    }
    copied = describe_extractor(config, RECIPE, include_weights=True)
    assert copied.paths["weights"].file == "detector.safetensors"
    assert copied.paths["vocabulary_dir"].file is None
    text = describe_extractor(TextConfig(model=str(tmp_path / "bert")), RECIPE)
    assert text.paths == {"model": PackagePath(name="bert")}
    for extractor in (found, copied, text):
        assert str(tmp_path) not in extractor.model_dump_json()


@pytest.mark.parametrize(
    ("weights", "message"),
    [("demo", "have a published name"), ("/x/weights.pth", r"weights\.pth is not a \.safetensors file")],
)
def test_detector_that_no_package_may_contain_is_refused(weights, message):
    plan = Plan(workspace="w", demo=DemoConfig(), regions=TorchvisionConfig(model="demo", weights=weights))
    with pytest.raises(ValueError, match=message):
        find_detector(plan)


def test_file_of_the_detector_is_found():
    config = TorchvisionConfig(model="demo", weights="/x/mine.safetensors")
    assert find_detector(Plan(workspace="w", demo=DemoConfig(), regions=config)) == Path("/x/mine.safetensors")
