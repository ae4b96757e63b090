"""The line `model` of a plan: extractors come from the package, and what contradicts it is refused with both values."""

import shutil
from pathlib import Path

import pytest

from data.text import LinesError
from extractors.config import TorchvisionConfig
from pipeline.plans import open_package, package
from pipeline.plans.load import load_plan
from tern.card import PackagePath
from tests.helpers.packages import make_content, rewrite, write_small_package

PLAN = 'workspace = "w"\nmodel = "{model}"\n[dataset]\nname = "x"\nannotations = "a.json"\nimages = "photos"\n'


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_small_package(tmp_path_factory.mktemp("packages") / "small").folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "small")
    return tmp_path / "small"


def write_plan(tmp_path: Path, model: object, text: str = "") -> str:
    (tmp_path / "plan.toml").write_text(PLAN.format(model=model) + text)
    return str(tmp_path / "plan.toml")


def test_extractors_come_from_the_package(folder, tmp_path):
    plan = load_plan(write_plan(tmp_path, folder))
    assert plan.regions == TorchvisionConfig(model="demo", weights="demo", max_regions=12, min_score=0.3)
    assert (plan.text.model, plan.text.layer) == ("minilm", -1)
    assert not plan.trains_model
    assert plan.model == str(folder)


def test_machine_may_choose_what_only_rounds(folder, tmp_path):
    text = '[regions]\ndevice = "cuda"\nfull_precision = true\n[text]\nbatch_size = 16\ndtype = "bfloat16"\n'
    plan = load_plan(write_plan(tmp_path, folder, text), ("text.device=cuda:1",))
    assert (plan.regions.device, plan.regions.full_precision, plan.regions.max_regions) == ("cuda", True, 12)
    assert (plan.text.batch_size, plan.text.dtype, plan.text.device) == (16, "bfloat16", "cuda:1")


def test_equal_settings_are_no_contradiction(folder, tmp_path):
    text = '[regions]\nmodel = "demo"\nmin_score = 0.30\n[text]\nmodel = "minilm"\n'
    assert load_plan(write_plan(tmp_path, folder, text)).regions.min_score == 0.3


CONTRADICTIONS = {
    "regions.max_regions=36": r"regions\.max_regions: the plan has 36, the model package small 12",
    "regions.model=fasterrcnn_resnet50_fpn": "the plan has 'fasterrcnn_resnet50_fpn', the model package small 'demo'",
    "regions.kind=grid": "regions.kind: the plan has 'grid', the model package small 'torchvision'",
    "regions.weights=DEFAULT": "regions.weights: the plan has 'DEFAULT', the model package small 'demo'",
    "text.model=bert-base-uncased": "text.model: the plan has 'bert-base-uncased', the model package small 'minilm'",
    "text.layer=6": "text.layer: the plan has 6, the model package small -1",
    "regions.max_region=3": "regions.max_region: unknown setting; did you mean 'max_regions'",
    "regions=3": "regions: ",
    "train.epochs=3": r"A plan with a model trains no model, but \[train\] is set",
    "checkpoint=x.pth.tar": "A plan has one model, but model and checkpoint are set",
}


@pytest.mark.parametrize("setting", CONTRADICTIONS)
def test_contradiction_is_refused_with_both_values(folder, tmp_path, setting):
    with pytest.raises(LinesError, match=CONTRADICTIONS[setting]):
        load_plan(write_plan(tmp_path, folder), (setting,))


def test_all_contradictions_are_listed(folder, tmp_path):
    with pytest.raises(LinesError) as caught:
        load_plan(write_plan(tmp_path, folder), ("regions.max_regions=1", "text.layer=2"))
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_store_of_regions_takes_the_place_of_the_extractor(folder, tmp_path):
    plan = load_plan(write_plan(tmp_path, folder), ("regions_store=stores/x",))
    assert plan.regions_store == Path("stores/x")
    assert plan.text.model == "minilm"


def test_weights_in_the_package_are_found_there(tmp_path):
    paths = {"weights": PackagePath(name="mine.safetensors", file="detector.safetensors")}
    content = make_content(weights="mine.safetensors", paths=paths)
    (tmp_path / "detector").write_bytes(b"weights")
    made = write_small_package(
        tmp_path / "with-detector", type(content)(**vars(content) | {"detector": tmp_path / "detector"})
    )
    plan = load_plan(write_plan(tmp_path, made.folder))
    assert plan.regions.weights == str(made.folder / "detector.safetensors")
    assert (made.folder / "detector.safetensors").read_bytes() == b"weights"


def test_weights_that_the_package_lacks_are_asked_for_by_name_and_hash(tmp_path):
    paths = {"weights": PackagePath(name="mine.safetensors")}
    made = write_small_package(tmp_path / "small", make_content(weights="mine.safetensors", paths=paths))
    plan = write_plan(tmp_path, made.folder)
    with pytest.raises(LinesError, match=f"needs 'mine.safetensors' .sha256 of its weights {'a' * 64}.*set regions"):
        load_plan(plan)
    assert load_plan(plan, ("regions.weights=/data/mine.safetensors",)).regions.weights == "/data/mine.safetensors"


def test_extractor_of_an_unknown_kind_is_named(folder, tmp_path):
    text = (folder / "extractors.json").read_text().replace('"torchvision"', '"sorcery"')
    rewrite(folder, "extractors.json", text.encode())
    with pytest.raises(ValueError, match=r"extractors\.json has .* regions\.kind: unknown value 'sorcery'; use one of"):
        load_plan(write_plan(tmp_path, folder))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("missing/", "missing is not a folder"),
        ("./missing", "missing is not a folder"),
        ("/missing", "/missing is not a folder"),
        ("missing", "The model 'missing' does not exist.*owner/name"),
        ("a/b/c", "The model 'a/b/c' does not exist"),
        (" x", "model: the path starts or ends with a blank"),
        ("$NO_SUCH_VARIABLE/x", "NO_SUCH_VARIABLE of the path is not set"),
    ],
)
def test_model_that_does_not_exist_is_named(tmp_path, monkeypatch, model, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load_plan(write_plan(tmp_path, model))


def test_shipped_name_comes_before_a_folder_of_that_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(package, "_SHIPPED", tmp_path)
    (tmp_path / "cwd" / "small").mkdir(parents=True)  # such as a folder of photos
    monkeypatch.chdir(tmp_path / "cwd")
    assert open_package("small").folder == folder
    with pytest.raises(FileNotFoundError, match=r"small is not a model package: it has no config\.json"):
        open_package("./small")


def test_path_that_exists_comes_before_a_name_of_the_hub(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert open_package(f"{tmp_path.name}/small").name == "small"
