"""A plan with a checkpoint of the TERN authors: vectors, a query and the pages, without training."""

import os
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import BertModel
from typer.testing import CliRunner

from data.io.files import read_json, temporary_path
from data.store.store import Store
from data.text import printable
from extractors.text.extractor import TextEncoder, TextExtractor
from pipeline.cli.app import build_app
from pipeline.lineage import read_lineage
from pipeline.pages.report import write_report
from pipeline.plans.load import load_plan
from pipeline.plans.plan import Plan
from pipeline.runs.runner import PipelineRunner
from pipeline.runs.torchrun_training import train_together
from pipeline.search.searcher import Searcher
from tern.card import read_package
from tern.model.convert import import_checkpoint
from tests.helpers.small_plan import extract_features, small_plan
from tests.reference.tern import SlowTern

pytestmark = pytest.mark.slow

LAYERS = 2  # of the checkpoint's BERT


def checkpoint(path, regions, bert=None, t=384):
    """Write a checkpoint of random weights for regions of a width, with the weights of `bert` if it is not None."""
    torch.manual_seed(1)
    slow = SlowTern(d=regions, t=t, e=32, layers=2, shared=2, ff=24).eval()
    with torch.no_grad():
        for parameter in slow.parameters():  # so that every parameter changes the output, those of the boxes too
            parameter.add_(0.1 * torch.randn_like(parameter))
        slow.img_enc.pos_encoding_image.map[0].weight[:, -5:] *= 20
    state = {f"module.img_txt_enc.{name}": value for name, value in slow.state_dict().items()}
    inside = {} if bert is None else bert.state_dict() | {"embeddings.position_ids": torch.arange(512)[None]}
    state |= {f"module.img_txt_enc.txt_enc.bert_model.{name}": value for name, value in inside.items()}
    torch.save({"epoch": 3, "model": state}, path)
    return slow


def tuned(text, layers=LAYERS):
    """Build the BERT of a plan with its pooler; its weights are changed slightly, as by training."""
    config = TextExtractor(text)._model.config
    config.num_hidden_layers = layers
    torch.manual_seed(5)
    bert = BertModel(config).eval()
    bert.load_state_dict(TextEncoder(text).bert.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return bert


@pytest.fixture(scope="module")
def made(finished_pipeline, tmp_path_factory):
    """Plan file without [train], and region width; dataset and stores of regions and tokens exist."""
    root = tmp_path_factory.mktemp("adopted")
    text = small_plan(root).read_text()
    path = root / "plan.toml"
    path.write_text(text.split("[train]")[0] + "layer = 2\n[index]" + text.split("[index]")[1])
    for part in ("dataset", "stores"):  # the regions; the tokens are those of another layer
        shutil.copytree(finished_pipeline.plan.workspace / part, root / "run" / part)
    return path, Store(extract_features(load_plan(str(path))).regions).dim


def stores_of(path) -> tuple[Store, Store]:
    features = extract_features(load_plan(str(path)))
    return Store(features.regions), Store(features.tokens)


def with_checkpoint(path, file) -> Plan:
    return load_plan(str(path), (f'checkpoint="{file}"',))


@pytest.mark.parametrize("has_bert", [True, False], ids=["with its BERT", "on stored features"])
def test_vectors_equal_the_reference_implementation(made, tmp_path, has_bert):
    path, dim = made
    plan = load_plan(str(path))
    bert = tuned(plan.text) if has_bert else None
    slow = checkpoint(tmp_path / "model_best_rsum.pth.tar", dim, bert)
    runner = PipelineRunner(with_checkpoint(path, tmp_path / "model_best_rsum.pth.tar"))
    features_of_plan = runner.extract(runner.load_dataset())
    model = runner.train(features_of_plan)
    assert read_json(model / "model.json")["fine_tuned"] is has_bert
    regions, tokens = Store(features_of_plan.regions), Store(features_of_plan.tokens)
    dataset, vectors = features_of_plan.dataset, runner.embed(features_of_plan, model)
    image, caption = dataset.images[3].id, dataset.captions[7].id
    features, boxes, size = (torch.tensor(regions.read(f, [image])).float() for f in ("features", "boxes", "size"))
    rows = torch.tensor(tokens.read("features", [caption])).float()
    if bert is not None:
        with torch.no_grad():
            rows = bert(torch.tensor(tokens.read("token_ids", [caption]))[None].long()).last_hidden_state[0]
    with torch.no_grad():
        expected = slow(features[None], boxes[None], size.view(1, 2), [len(features)], rows[None], [len(rows)])
        moved = slow(features[None], boxes[None] / 2, size.view(1, 2), [len(features)], rows[None], [len(rows)])
    assert (expected[0] - moved[0]).abs().max() > 0.02, "boxes change the vector"
    for folder, name, vector in zip(("images", "captions"), (image, caption), expected, strict=True):
        found = Store(getattr(vectors, folder)).read("features", [name])
        np.testing.assert_allclose(found, vector, atol=1e-3)  # stored as float16


def test_pipeline_runs_to_query_pages_and_lineage(made, tmp_path):
    path, dim = made
    checkpoint(tmp_path / "given.pth.tar", dim, tuned(load_plan(str(path)).text))
    plan = with_checkpoint(path, tmp_path / "given.pth.tar")
    finished = PipelineRunner(plan).run_all()
    model, stamp = finished.model, (finished.model / "best.safetensors").stat().st_mtime_ns
    page = write_report(finished).read_text()
    assert "from given.pth.tar" in page
    assert "<h2>Training</h2>" not in page
    caption = finished.features.dataset.select_split("test").captions[0]
    stored = Store(finished.vectors.captions).read("features", [caption.id])[0]
    np.testing.assert_allclose(Searcher(plan).embed_text(caption.text)[0], stored, atol=2e-3)
    assert "checkpoint given.pth.tar" in read_lineage(plan.workspace).to_text()
    command = ["train", "--plan", str(path), "--set", f'checkpoint="{tmp_path / "given.pth.tar"}"']
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    assert model.name in result.output.replace("\n", "")
    assert (model / "best.safetensors").stat().st_mtime_ns == stamp, "the checkpoint is imported once"


@pytest.mark.parametrize(
    ("layers", "t", "wide", "message"),
    [
        (3, 384, 0, "text.layer=3"),
        (None, 768, 0, "tokens of 768 numbers"),
        (None, 384, 4, "regions of"),
    ],
    ids=["a deeper BERT", "a wider BERT", "other regions"],
)
def test_checkpoint_that_does_not_fit_the_stores_is_rejected(made, tmp_path, layers, t, wide, message):
    path, dim = made
    bert = tuned(load_plan(str(path)).text, layers) if layers else None
    checkpoint(tmp_path / "x.pth.tar", dim + wide, bert, t)
    before = set((load_plan(str(path)).workspace / "models").glob("*"))
    with pytest.raises(ValueError, match=message):
        train_together(PipelineRunner(with_checkpoint(path, tmp_path / "x.pth.tar")))
    assert set((load_plan(str(path)).workspace / "models").glob("*")) == before, "no folder is left behind"


def test_invalid_checkpoint_is_rejected_before_extraction(made, tmp_path):
    path, dim = made
    checkpoint(tmp_path / "x.pth.tar", dim)
    settings = (f'checkpoint="{tmp_path / "none.pth.tar"}"', f'workspace="{tmp_path / "new"}"')
    with pytest.raises(FileNotFoundError, match=r"The checkpoint .* does not exist"):
        extract_features(load_plan(str(path), settings))
    settings = (f'checkpoint="{tmp_path / "x.pth.tar"}"', f'workspace="{tmp_path / "new"}"', "text.layer=mean-last-4")
    with pytest.raises(ValueError, match=r"was trained on one layer\. Set text\.layer=6"):
        extract_features(load_plan(str(path), settings))
    (tmp_path / "broken.pth.tar").write_bytes((tmp_path / "x.pth.tar").read_bytes()[:3000])
    checkpoint(tmp_path / "deep.pth.tar", dim, tuned(load_plan(str(path)).text, 3))
    for name, message in (("broken", "cannot be read"), ("deep", r"text\.layer=3")):
        settings = (f'checkpoint="{tmp_path / name}.pth.tar"', f'workspace="{tmp_path / "new"}"')
        with pytest.raises(ValueError, match=message):
            extract_features(load_plan(str(path), settings))
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"with a checkpoint trains no model, but \[train\] is set"):
        load_plan(str(path), ('checkpoint="x.pth.tar"', "train.seed=1"))
    assert load_plan(str(path), ('checkpoint="x.pth.tar"', "train.seed=1", "train={}")).checkpoint


@pytest.mark.parametrize("name", ['a"]; click n0 "javascript:alert(1)".tar', "a<b>&#35;`c`.tar", "a\x1b[2J\u202e.tar"])
def test_file_name_is_escaped_wherever_it_is_shown(made, tmp_path, name):
    path, dim = made
    checkpoint(tmp_path / name, dim)
    model = import_checkpoint(tmp_path / name, tmp_path / "models", *stores_of(path), lambda: None)
    card = read_json(model / "model.json")
    assert card["checkpoint"] == name
    found = read_lineage(tmp_path, include_unused=True)
    for shown in (found.to_text(), found.to_mermaid(), found.to_svg()):
        assert not set(shown) & set("\x1b\u202e")
    label = next(line for line in found.to_mermaid().splitlines() if "checkpoint" in line).partition("checkpoint ")[2]
    label = label.removesuffix('"]').rpartition(",")[0]  # the size of the model
    assert not set(label) & set('"<>`&')
    assert re.sub(r"#(\d+);", lambda code: chr(int(code[1])), label) == printable(name)


def test_incomplete_model_folder_is_completed(made, tmp_path):
    path, dim = made
    checkpoint(tmp_path / "x.pth.tar", dim)
    plan = with_checkpoint(path, tmp_path / "x.pth.tar")
    model = train_together(PipelineRunner(plan))
    complete_weights = (model / "best.safetensors").read_bytes()
    (model / "model.json").unlink()
    (model / "best.safetensors").write_bytes(complete_weights[:100])
    own_file = temporary_path(model / "best.safetensors")
    stale_file = own_file.with_name(own_file.name.replace(f"-{os.getpid()}.", "-999999999."))
    stale_file.write_bytes(complete_weights[:50])
    again = train_together(PipelineRunner(plan))
    assert again == model
    assert (again / "best.safetensors").read_bytes() == complete_weights
    assert not stale_file.exists()


def test_flow_run_shows_metrics_but_no_epochs(made, tmp_path, monkeypatch):
    artifacts = pytest.importorskip("flows.reporting.artifacts")
    path, dim = made
    checkpoint(tmp_path / "x.pth.tar", dim)
    shown = []
    monkeypatch.setattr(artifacts, "create_table", lambda rows, key, about: shown.append((key, len(rows))))
    finished = PipelineRunner(with_checkpoint(path, tmp_path / "x.pth.tar")).run_all()
    artifacts.create_training_artifacts(finished.model, finished.evaluation)
    assert shown == [("metrics", 2)]


@pytest.mark.parametrize("has_bert", [True, False], ids=["with its BERT", "on stored features"])
def test_package_of_a_checkpoint_gives_the_same_vectors(made, tmp_path, has_bert):
    path, dim = made
    checkpoint(tmp_path / "best.pth.tar", dim, tuned(load_plan(str(path)).text) if has_bert else None)
    command = [
        "model",
        "import",
        str(tmp_path / "best.pth.tar"),
        "--plan",
        str(path),
        "--output",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(build_app(), command)
    assert not result.exception, result.output
    package = read_package(tmp_path / "out")
    assert package.config.fine_tuned is has_bert
    assert ("text-encoder.safetensors" in package.config.files) is has_bert
    assert package.config.origin.checkpoint == "best.pth.tar"
    text = path.read_text()
    plan_file = tmp_path / "package.toml"
    without_extractors = text[: text.index("[regions]")] + text[text.index("[index]") :]
    plan_file.write_text(f'model = "{tmp_path / "out"}"\n{without_extractors}')
    vectors = []
    for plan in (with_checkpoint(path, tmp_path / "best.pth.tar"), load_plan(str(plan_file))):
        runner = PipelineRunner(plan)
        features = runner.extract(runner.load_dataset())
        made_vectors = runner.embed(features, runner.train(features))
        ids = sorted(Store(made_vectors.captions).ids)
        vectors.append(Store(made_vectors.captions).read("features", ids))
    np.testing.assert_array_equal(*vectors)
