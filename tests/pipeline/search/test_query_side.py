"""Queries without torch: vectors of the exported graphs against torch, damaged files, and an index without its plan."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer
from typer.testing import CliRunner

from data.alignment import Embeddings
from data.settings import find_cache_folder
from extractors.config import TextConfig
from extractors.text import TextEncoder
from pipeline.cli.app import build_app
from pipeline.origin import Origin
from pipeline.search import Searcher, make_photo_query, open_index_searcher
from pipeline.search.encoder_pool import EncoderPool
from pipeline.search.model_encoder import OnnxEncoder
from pipeline.search.torch_encode import TorchEncoder
from pipeline.stages.query_side import ensure_query_side
from tern.card import QUERY_RECORD, TOKENIZER, ModelCard
from tern.config import ModelConfig, TrainConfig
from tern.model.folder import write_model_folder
from tern.networks.build import build_trainable
from tern.query import read_query_record
from tests.helpers.light_starts import run_commands
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "two", "dogs", "a", "cat", "##s", "é", "日", ",", "."]
SMALL = {"width": 16, "heads": 2, "feedforward_dim": 24, "embed_dim": 24}
FIXED = {"pooling": "cls", "box_embedding": "add", "shortcut": False, "count_similar_regions": False, "text_layers": 0}
ARCHITECTURES = {
    "default": ModelConfig(**SMALL, alignment_dim=8, pooled_half=True),
    "one half": ModelConfig(**SMALL, alignment_dim=8),
    "without shortcut": ModelConfig(**SMALL, shortcut=False, pooling="max", text_layers=1, box_embedding="none"),
    "mean": ModelConfig(**SMALL, pooling="mean", alignment_dim=6, count_similar_regions=False, pre_norm=False),
    "paper": ModelConfig(**SMALL, architecture="paper", pre_norm=False, input_dropout=0, shared_layers=2, **FIXED),
    "kaylode": ModelConfig(
        **SMALL, architecture="kaylode", input_dropout=0, shared_layers=0, **(FIXED | {"pooling": "mean"})
    ),
    "vse-infinity": TrainConfig(preset="vse-infinity", model=SMALL).model,
    "teran": ModelConfig(
        **SMALL, architecture="teran", pre_norm=False, shared_layers=0, alignment_dim=24,
        **(FIXED | {"pooling": "mean", "text_layers": 2}),
    ),
}  # fmt: skip
TEXTS = ["two dogs", "a", "", "[SEP] cats, a cat.", "Two  DOGS " * 40, "日本 é", "\ud83d\ude00 \ud83d", "zzz \0 ‮"]
REGION_DIM = 20


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(path)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=512).save_pretrained(path)
    return path


def make_model(folder: Path, config: ModelConfig, text: TextConfig, fine_tuned: bool) -> Path:
    """Write a model with random weights, also where training starts from zeros, and its query side."""
    torch.manual_seed(5)
    token_dim = 32 * (len(text.layer) if isinstance(text.layer, tuple) else 1)
    model = build_trainable(config, REGION_DIM, token_dim, TextEncoder(text) if fine_tuned else None).eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "bert" not in name:
            is_spread = name.endswith(("std", "var"))
            value.copy_(torch.randn_like(value) * 0.3 + (1.0 if is_spread else 0.0))
            if is_spread:
                value.abs_().clamp_(min=0.5)
    card = ModelCard(
        fingerprint="0" * 12, model=config, region_dim=REGION_DIM, token_dim=token_dim, region_recipe="0" * 12,
        token_recipe="0" * 12, fine_tuned=fine_tuned, num_parameters=1,
    )  # fmt: skip
    write_model_folder(folder, model, card)
    ensure_query_side(folder, text)
    return folder


def draw_images(seed: int = 0) -> list:
    draw, images = np.random.default_rng(seed), []
    for count in (5, 1, 9, 5, 36, 1):
        corners = draw.uniform(0, 200, (count, 2))
        boxes = np.hstack([corners, corners + draw.uniform(1, 99, (count, 2))]).astype(np.float32)
        features = draw.standard_normal((count, REGION_DIM)).astype(np.float16)
        images.append((features, boxes, (320, 240), draw.uniform(0, 1, count).astype(np.float32)))
    images[3] = (*images[3][:3], np.zeros(5, np.float32))  # imported regions may have no scores
    return images


@pytest.mark.parametrize("fine_tuned", [False, True], ids=["stored tokens", "fine-tuned"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_vectors_of_the_query_side_equal_those_of_torch(name, fine_tuned, bert, tmp_path):
    text = TextConfig(model=str(bert), max_tokens=24, layer=(0, 1, -1) if name == "mean" else -1)
    folder = make_model(tmp_path / "tern-0", ARCHITECTURES[name], text, fine_tuned)
    record = read_query_record(folder)
    assert record is not None, "the query side was exported"
    onnx, in_torch = OnnxEncoder(folder, record, is_resident=False), TorchEncoder(folder, text)
    assert onnx.tokenize(TEXTS) == in_torch.tokenize(TEXTS)
    vectors = onnx.embed_texts(TEXTS).vectors
    np.testing.assert_allclose(vectors, in_torch.embed_texts(TEXTS).vectors, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors.round(4), axis=0)) >= 4, "other texts, other vectors"
    for text_alone, vector in zip(TEXTS, vectors, strict=True):  # alone, without padding
        np.testing.assert_allclose(onnx.embed_texts([text_alone]).vectors[0], vector, atol=1e-5)
    images = draw_images()
    expected = in_torch.embed_images(images).vectors
    for encoder in (onnx, OnnxEncoder(folder, record, is_resident=True)):
        np.testing.assert_allclose(encoder.embed_images(images).vectors, expected, atol=1e-5)
    single = [onnx._side.embed_images(part, in_single_runs=True).vectors for part in (images, images[::-1])]
    np.testing.assert_array_equal(single[0], single[1][::-1])
    np.testing.assert_allclose(single[0], expected, atol=1e-5)
    check_equal_rows(onnx.embed_texts(TEXTS), in_torch.embed_texts(TEXTS), ARCHITECTURES[name])
    check_equal_rows(onnx.embed_images(images), in_torch.embed_images(images), ARCHITECTURES[name])
    with pytest.raises(ValueError, match=r"shape \(3, 7\), but the model was trained on \(n, 20\)"):
        onnx.embed_images([(np.ones((3, 7), "f2"), np.ones((3, 4), "f4"), (9, 9), np.ones(3, "f4"))])


def check_equal_rows(actual: Embeddings, expected: Embeddings, config: ModelConfig) -> None:
    """Check that both have equal row vectors, up to a step of their codes, or none as the configuration says."""
    assert (actual.rows is None) == (expected.rows is None) == (not config.alignment_dim)
    if actual.rows is not None:
        np.testing.assert_array_equal(actual.rows.lengths, expected.rows.lengths)
        assert np.abs(actual.rows.codes.astype(int) - expected.rows.codes.astype(int)).max() <= 1
        np.testing.assert_allclose(actual.rows.weights, expected.rows.weights, atol=1e-3)


@pytest.fixture
def model(bert, tmp_path):
    return make_model(tmp_path / "models/tern-0", ARCHITECTURES["default"], TextConfig(model=str(bert)), False)


def edit_record(folder: Path, **changes) -> None:
    path = folder / QUERY_RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))


DAMAGES = {
    "graph": (lambda folder: damage(folder / "captions.onnx"), "captions.onnx is missing or damaged"),
    "missing graph": (lambda folder: (folder / "captions.onnx").unlink(), "captions.onnx is missing or damaged"),
    "weights": (lambda folder: damage(folder / "best.safetensors"), "has other weights than those"),
    "other text model": (lambda folder: edit_record(folder, text=TEXT | {"sha256": "1" * 64}), "has other weights"),
    "tokenizer": (lambda folder: edit_record(folder, tokenizer_sha256="1" * 64), "is not the tokenizer of the model"),
    "newer schema": (lambda folder: edit_record(folder, schema=3), "query.json .*schema 3"),
    "other network": (lambda folder: edit_record(folder, network=9), "network 9"),
    "wrong type": (lambda folder: edit_record(folder, max_tokens="many"), "is not the record of a query side"),
    "path in a name": (lambda folder: edit_record(folder, text=TEXT | {"weights": "../x"}), "text.weights"),
    "no text model": (lambda folder: edit_record(folder, text=TEXT | {"model": "/gone"}), "/gone' is not on this"),
}
TEXT = {"model": "", "weights": "model.safetensors", "sha256": "0" * 64}


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of one test, which may damage it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_query_side_is_one_error_that_names_the_file(case, model, bert, monkeypatch):
    monkeypatch.setitem(TEXT, "model", str(bert))
    change, message = DAMAGES[case]
    change(model)
    pool = EncoderPool(model.parent, None, None, None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pool.get_model(Origin(model="tern-0", regions="", tokens="")).embed_texts(["a cat"])


@pytest.mark.usefixtures("own_cache")
def test_cached_graph_that_is_truncated_is_written_again(model, bert):
    encoder = OnnxEncoder(model, read_query_record(model), is_resident=False)
    expected = encoder.embed_texts(["two cats"]).vectors
    cached = (find_cache_folder() / "onnx").glob("query-captions-*.ort")
    newest = max(cached, key=lambda path: path.stat().st_mtime)
    for content in (newest.read_bytes()[:5000], b"", bytes(90_000)):
        newest.write_bytes(content)
        again = OnnxEncoder(model, read_query_record(model), is_resident=False).embed_texts(["two cats"]).vectors
        np.testing.assert_array_equal(again, expected)
    for sidecar in newest.parent.glob("*.json"):
        sidecar.write_text("{")
    again = OnnxEncoder(model, read_query_record(model), is_resident=False).embed_texts(["two cats"]).vectors
    np.testing.assert_array_equal(again, expected)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("Failed to save the model")])
def test_graph_that_cannot_be_cached_is_used_without_the_cache(error, model, monkeypatch):
    expected = OnnxEncoder(model, read_query_record(model), is_resident=False).embed_texts(["two cats"]).vectors
    shutil.rmtree(find_cache_folder() / "onnx")

    def fail(path, graph, initializers):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("tern.query.side.write_optimized_graph", fail)
    vectors = OnnxEncoder(model, read_query_record(model), is_resident=False).embed_texts(["two cats"]).vectors
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert not list((find_cache_folder() / "onnx").iterdir())


def test_tokenizer_is_kept_beside_a_model_whose_text_model_has_no_such_file(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "bert")
    (folder / TOKENIZER).unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    text = TextConfig(model=str(folder))
    model = make_model(tmp_path / "tern-0", ARCHITECTURES["default"], text, False)
    assert (model / TOKENIZER).is_file()
    onnx = OnnxEncoder(model, read_query_record(model), is_resident=False)
    np.testing.assert_allclose(
        onnx.embed_texts(TEXTS).vectors, TorchEncoder(model, text).embed_texts(TEXTS).vectors, atol=1e-5
    )


def _remove_boxes(hit):
    words = tuple(replace(word, box=None, label="") for word in hit.words)
    return replace(hit, regions=(), path=Path(), words=words)


def test_workspace_without_feature_stores_is_searched_without_regions(finished_pipeline, tmp_path):
    plan = finished_pipeline.plan
    expected = [_remove_boxes(hit) for hit in Searcher(plan).search_text("a dog", 5)]
    shutil.copytree(plan.workspace, tmp_path / "run", ignore=shutil.ignore_patterns("stores"))
    searcher = Searcher(plan.model_copy(update={"workspace": tmp_path / "run"}))
    assert [replace(hit, path=Path()) for hit in searcher.search_text("a dog", 5)] == expected
    assert "hits come without regions" in searcher.note
    image = finished_pipeline.features.dataset.images[2]
    (answer,) = searcher.search([make_photo_query(image.path, "image")], 1000)
    assert image.id not in {hit.id for hit in answer.hits + answer.weak}, "the image that asks is known by its content"
    assert len(answer.hits) == len(finished_pipeline.features.dataset.images) - 1


def test_package_of_a_model_searches_an_index_with_texts_and_photos(finished_pipeline, tmp_path):
    plan, runner = ["--plan", str(small_plan(finished_pipeline.plan.workspace.parent))], CliRunner()
    exported = runner.invoke(build_app(), ["model", "export", *plan, "--output", str(tmp_path / "package")])
    assert exported.exit_code == 0, exported.output
    searcher = open_index_searcher(finished_pipeline.plan.workspace / "index", str(tmp_path / "package"))
    own = Searcher(finished_pipeline.plan)
    np.testing.assert_allclose(searcher.embed_text("a cat"), own.embed_text("a cat"), atol=1e-6)
    photo = finished_pipeline.features.dataset.images[0].path
    np.testing.assert_allclose(searcher.embed_image(photo), own.embed_image(photo), atol=1e-6)
    command = ["search", "a cat", "--index", str(own.index.root), "--model", str(tmp_path / "package")]
    result = runner.invoke(build_app(), [*command, "-k", "2", "--json", "--min-probability", "0"])
    assert result.exit_code == 0, result.output
    assert [hit["id"] for hit in json.loads(result.stdout)["hits"]] == [hit.id for hit in own.search_text("a cat", 2)]
    assert "hits come without regions" in result.stderr


def test_text_query_imports_neither_torch_nor_transformers(finished_pipeline):
    plan = str(small_plan(finished_pipeline.plan.workspace.parent))
    start = run_commands(["search", "two dogs", "--plan", plan], ["search", "two dogs", "--plan", plan, "--json"])
    assert "scene-" in start.output
    assert start.imported("torch transformers torchvision timm onnx pyarrow PIL matplotlib jinja2 prefect") == []
