"""Loading of plans: shipped plans, overrides, and messages that name the invalid setting and a similar one."""

from pathlib import Path

import pytest

from extractors.config import GridConfig, TorchvisionConfig
from pipeline.plan_files import shipped_plans
from pipeline.plans.load import load_plan
from pipeline.plans.plan import Plan

DATASET = '[dataset]\nname = "x"\nannotations = "a.json"\nimages = "photos"\n'


def write_plan(tmp_path: Path, text: str) -> str:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped_plans())
def test_shipped_plan_loads_and_has_a_title(name):
    assert load_plan(name).workspace == Path("runs") / name
    assert shipped_plans()[name].read_text().startswith("# ")


def test_overrides_set_nested_keys_and_keep_types(tmp_path):
    path = write_plan(tmp_path, 'workspace = "w"\n' + DATASET)
    loaded = load_plan(
        path, ("train.seed=7", "train.model.width=128", "dataset.name=mine", "regions.whole_image=false")
    )
    assert (loaded.train.seed, loaded.train.model.width, loaded.dataset.name) == (7, 128, "mine")
    assert loaded.regions.whole_image is False
    assert loaded.text == load_plan(path).text


def test_kind_of_regions_selects_their_settings(tmp_path):
    path = write_plan(tmp_path, 'workspace = "w"\n' + DATASET)
    assert load_plan(path).regions == TorchvisionConfig()
    loaded = load_plan(path, ("regions.kind=grid", "regions.grid_size=5"))
    assert loaded.regions == GridConfig(grid_size=5)
    assert Plan.model_validate(loaded.model_dump()) == loaded


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ('workspce = "w"\n' + DATASET, (), "workspce: unknown setting; did you mean 'workspace'"),
        (
            'workspace = "w"\n[train]\nepoch = 3\n' + DATASET,
            (),
            r"train.epoch: .*; did you mean 'epochs'\?(?! Use)",
        ),
        ('workspace = "w"\n[train.loss]\nmargn = 1\n' + DATASET, (), "train.loss.margn: .*did you mean 'margin'"),
        ('workspace = "w"\n[index]\nzzzz = 1\n' + DATASET, (), "index.zzzz: unknown setting; use one of factory"),
        (
            'workspace = "w"\n[regions]\nmax_region = 3\n' + DATASET,
            (),
            "regions.max_region: .*mean 'max_regions'",
        ),
        (
            'workspace = "w"\n' + DATASET,
            ("regions.kind=grid", "regions.grid_siz=3"),
            "regions.grid_siz: .*mean 'grid_size'",
        ),
        *(
            (
                'workspace = "w"\n' + DATASET,
                ("regions.kind=grid", f"regions.{old}=300"),
                f"regions.{old}: unknown.*{new}",
            )
            for old, new in {"max_grid_size": "grid_size", "min_size": "image_size", "max_size": "image_size"}.items()
        ),
        ('workspace = "w"\n' + DATASET, ("regions.kind=gird",), "regions.kind: unknown value 'gird'; .*mean 'grid'"),
        ('workspace = "w"\n[train]\nepochs = "many"\n' + DATASET, (), "train.epochs: .*integer.*'many'"),
        ('workspace = "w"\n[train]\nepochs = 0\n' + DATASET, (), "train.epochs: .*greater than or equal to 1"),
        ('workspace = "w"', (), "exactly one of"),
        ('workspace = "w"\n[demo]\n' + DATASET, (), "exactly one of"),
        ("workspace = ", (), "not valid TOML"),
        ('workspace = "w"\n' + DATASET, ("train.seed",), "Write KEY=VALUE"),
        ('workspace = "w"\n' + DATASET, ("workspace.x=1",), "not a table"),
        ('workspace = "w"\n' + DATASET, ("train.sed=1",), "did you mean 'seed'"),
        ('workspace = "w"\nworkers = 0\n' + DATASET, (), "workers: .*greater than or equal"),
        ("#" * (2 << 20), (), "a plan has at most"),
        ('workspace = "w"\n[train]\nlr = inf\n' + DATASET, (), "train.lr: .*finite number"),
        ('workspace = "w"\n' + DATASET, ("train.weight_decay=nan",), "train.weight_decay: .*finite number"),
        ('workspace = "w"\n' + DATASET, ("train.loss.margin=inf",), "train.loss.margin: .*finite number"),
        ('workspace = "w"\n' + DATASET, ("gate.max_latency_ms=inf",), "gate.max_latency_ms: .*finite number"),
        ('workspace = "w"\n' + DATASET, (f"train.seed={2**64}",), "train.seed: .*less than"),
        ('workspace = "w"\nworkers = true\n' + DATASET, (), "workers: true and false are not numbers"),
        ('workspace = "w"\n' + DATASET, ("images_per_shard=true",), "images_per_shard: true and false are not numbers"),
        ('workspace = "w"\n' + DATASET, ("train.warmup=true",), "train.warmup: true and false are not numbers"),
        ('workspace = "w"\n' + DATASET, ("train.betas=[true, 0.9]",), "train.betas: true and false are not numbers"),
        ('workspace = "w"\n' + DATASET, ("train.betas=[0.9, 1.0]",), "train.betas.1: .*less than 1"),
        ('workspace = "w"\n' + DATASET, ("regions.max_regions=true",), "regions.max_regions: true and false are not"),
        ('workspace = "w"\n' + DATASET, ("text.layer=false",), "text.layer: true and false are not numbers"),
        ('workspace = "w"\n' + DATASET, ("index.nlist=true",), "index.nlist: true and false are not numbers"),
        ('workspace = "w"\n' + DATASET, ("gate.min_recall=true",), "gate.min_recall: true and false are not numbers"),
        ('workspace = "w"\n' + DATASET, ("train.fine_tune=7",), "train.fine_tune: Input should be a valid boolean"),
        ('workspace = "w"\n[demo]\nsplits = {train = true}\n', (), "demo.splits: true and false are not numbers"),
        ('workspace = "w"\n[demo]\nsplits = {dev = 1200}\n', (), "demo.splits.dev.*'train', 'val' or 'test'"),
    ],
)
def test_invalid_plan_raises_with_the_setting(tmp_path, text, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_plan(write_plan(tmp_path, text), overrides)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dmo", "did you mean 'demo'.* Shipped plans are coco, demo, flickr30k"),
        ("gone.toml", "does not exist"),
        ("zz", "shipped plans are coco, demo, flickr30k"),
        ("nope", "the name of a plan; shipped plans are coco, demo, flickr30k"),
    ],
)
def test_missing_plan_raises_with_a_suggestion(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_plan(name)


def test_loaded_plan_is_frozen(tmp_path):
    loaded = load_plan(write_plan(tmp_path, 'workspace = "w"\n' + DATASET))
    with pytest.raises(ValueError, match="frozen"):
        loaded.workers = 3
    assert Plan.model_validate(loaded.model_dump()) == loaded


def test_plan_with_an_endless_number_is_named_without_advice_for_programmers(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text("images_per_shard = " + "9" * 5000)
    with pytest.raises(ValueError, match=r"p\.toml is not valid TOML: a number has more than 4,300 digits") as error:
        load_plan(str(path))
    assert "set_int_max_str_digits" not in str(error.value)
