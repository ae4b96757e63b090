"""The network `paper`: its size, its outputs against a slow forward pass, its checkpoints, its preset."""

import argparse

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import BertConfig, BertModel

from tern.config import ModelConfig, TrainConfig
from tern.losses.build import build_loss
from tern.model.authors_file import convert_state_dict
from tern.model.convert import load_paper_checkpoint
from tern.networks.build import build_model
from tern.networks.default import Tern
from tern.networks.inputs import ImageBatch
from tern.networks.paper import PaperLayer
from tern.presets import PRESETS
from tern.training.optim import lr_factor
from tests.reference.tern import SlowTern, hinge

SMALL = {"d": 24, "t": 10, "e": 16, "layers": 3, "shared": 2, "ff": 20}


def tiny_bert(seed):
    torch.manual_seed(seed)
    return BertModel(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    ).eval()


def save_checkpoint(path, extra=None, **save_options):
    """Save a checkpoint with everything that train.py of the authors saves; return its model."""
    torch.manual_seed(1)
    slow = SlowTern(**SMALL).eval()
    with torch.no_grad():
        for parameter in slow.parameters():  # biases and norms too, and layers that differ
            parameter.add_(0.2 * torch.randn_like(parameter))
    state = {f"img_txt_enc.{name}": value for name, value in slow.state_dict().items()} | (extra or {})
    state |= {f"img_txt_enc.txt_enc.bert_model.{name}": value for name, value in tiny_bert(3).state_dict().items()}
    state["img_txt_enc.txt_enc.word_embeddings.weight"] = torch.ones(4, 3)
    other_entries = {"best_ndcg": np.mean([0.5, 0.7]), "best_rsum": 1.0, "opt": argparse.Namespace(num_epochs=30)}
    torch.save({"epoch": 3, "model": state, "config": {"model": {"layers": 2}}, **other_entries}, path, **save_options)
    return slow


def make_batch():
    """Five images with up to 7 regions, and five captions with up to 9 tokens."""
    torch.manual_seed(2)
    regions, lengths = [7, 1, 4, 7, 3], [9, 2, 5, 1, 9]
    low = torch.rand(5, 7, 2) * 50
    boxes, sizes = torch.cat([low, low + torch.rand(5, 7, 2) * 60], 2), torch.rand(5, 2) * 100 + 110
    return torch.randn(5, 7, 24), boxes, sizes, regions, torch.randn(5, 9, 10), lengths


def make_mask(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(
    "save_options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "as torch 1.3 wrote"]
)
def test_checkpoint_of_the_authors_gives_the_vectors_of_a_slow_forward_pass(tmp_path, save_options):
    slow = save_checkpoint(tmp_path / "model_best_rsum.pth.tar", **save_options)
    model, bert = load_paper_checkpoint(tmp_path / "model_best_rsum.pth.tar")
    features, boxes, sizes, regions, words, lengths = make_batch()
    with torch.no_grad():
        images, captions = slow(features, boxes, sizes, regions, words, lengths)
        batch = ImageBatch(features, boxes, sizes, make_mask(regions))
        torch.testing.assert_close(model.embed_images(batch), images, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.embed_captions(words, make_mask(lengths)), captions, atol=1e-5, rtol=0)
    assert images.std(0).min() > 1e-2, "equal vectors would agree in any case"
    expected_bert, loaded, ids = tiny_bert(3), tiny_bert(4), torch.tensor([[1, 5, 2]])
    loaded.load_state_dict(bert)
    torch.testing.assert_close(loaded(ids).last_hidden_state, expected_bert(ids).last_hidden_state)


def test_loss_and_gradients_equal_a_slow_forward_pass(tmp_path):
    slow = save_checkpoint(tmp_path / "one.pth.tar")
    model, _ = load_paper_checkpoint(tmp_path / "one.pth.tar")
    features, boxes, sizes, regions, words, lengths = make_batch()
    expected_loss = hinge(*slow(features, boxes, sizes, regions, words, lengths))
    expected_loss.backward()
    images = model.embed_images(ImageBatch(features, boxes, sizes, make_mask(regions)))
    captions = model.embed_captions(words, make_mask(lengths))
    loss = build_loss(TrainConfig(preset="paper").loss)(images, captions, torch.arange(5), torch.arange(5))
    loss.backward()
    torch.testing.assert_close(loss, expected_loss, atol=1e-4, rtol=0)
    names = {f"img_txt_enc.{name}": p.grad for name, p in slow.named_parameters() if p.grad is not None}
    expected, _ = convert_state_dict(names)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-3, rtol=1e-3, msg=name)


def test_paper_network_has_131_7_million_parameters_without_the_unused_ones():
    with torch.device("meta"):
        network = build_model(TrainConfig(preset="paper").model, 2048, 768)
        slow = SlowTern()
    unused = sum(p.numel() for layer in (slow.img_enc.fc, slow.txt_enc.map) for p in layer.parameters())
    total, num_parameters = (sum(p.numel() for p in model.parameters()) for model in (slow, network))
    assert (round(total / 1e6, 1), round(unused / 1e6, 2)) == (131.7, 2.89)
    assert num_parameters == total - unused


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"img_txt_enc.transformer_encoder_2.layers.0.norm1.weight": torch.ones(2)}, "published configuration"),
        ({"img_txt_enc.img_enc.pos_encoding_image.map.0.weight": torch.ones(24, 5)}, "0 features"),
        ({"img_txt_enc.img_enc.pos_encoding_image.map.weight": torch.ones(24, 5)}, "concat-and-process"),
        ({"img_txt_enc.img_proj.bias": torch.ones(17)}, "published configuration"),
        ({"img_txt_enc.text_aggregation.map.0.weight": torch.ones(2, 2)}, "text_aggregation"),
    ],
    ids=["unshared", "no features", "project-and-sum", "another width", "another pooling"],
)
def test_checkpoint_of_another_network_is_rejected(tmp_path, extra, message):
    save_checkpoint(tmp_path / "x.pth.tar", extra)
    with pytest.raises(ValueError, match=message):
        load_paper_checkpoint(tmp_path / "x.pth.tar")


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("content", [{"model": {"a": torch.ones(1)}, "opt": Evil()}, {"weights": 1}, [1, 2]])
def test_checkpoint_with_other_objects_is_rejected(tmp_path, content, capsys):
    torch.save(content, tmp_path / "x.pth.tar")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_paper_checkpoint(tmp_path / "x.pth.tar")
    assert capsys.readouterr().out == ""
    with pytest.raises(FileNotFoundError):
        load_paper_checkpoint(tmp_path / "none.pth.tar")


def test_damaged_checkpoint_is_rejected(tmp_path):
    save_checkpoint(tmp_path / "x.pth.tar")
    (tmp_path / "x.pth.tar").write_bytes((tmp_path / "x.pth.tar").read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_paper_checkpoint(tmp_path / "x.pth.tar")


def test_settings_take_precedence_over_the_preset():
    assert TrainConfig(preset="default") == TrainConfig()
    default, changed = (
        TrainConfig(preset="paper", **changes) for changes in ({}, {"lr": 1e-4, "model": {"visual_layers": 2}})
    )
    assert (default.lr, default.warmup, default.max_grad_norm, default.ema) == (2e-6, 1000, 2.0, 0.0)
    assert (changed.lr, changed.model.visual_layers, changed.model.width) == (1e-4, 2, 2048)
    assert changed.loss == default.loss
    assert TrainConfig(preset="paper", loss={"name": "infonce"}).loss == TrainConfig(loss={"name": "infonce"}).loss
    for preset in PRESETS:
        config = TrainConfig(preset=preset)
        assert TrainConfig(**config.model_dump(mode="json")) == config, "the model card holds these settings"


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "best"},
        {"preset": "paper", "model": {"pooling": "gpo"}},
        {"preset": "kaylode", "model": {"shared_layers": 1}},
        {"preset": "paper", "model": {"embed_dim": 1022}},
        {"preset": "paper", "model": {"depth": 3}},
        {"preset": "paper", "learning_rate": 1},
        {"model": {"architecture": "paper"}},
    ],
)
def test_settings_that_do_not_fit_a_preset_are_rejected(settings):
    with pytest.raises(ValidationError):
        TrainConfig(**settings)


def test_learning_rate_of_paper_rises_for_1000_steps_and_stays():
    c = TrainConfig(preset="paper")
    rates = [lr_factor(step, 200_000, c.warmup, c.schedule) for step in (0, 499, 999, 1000, 199_999)]
    np.testing.assert_allclose(rates, [0.001, 0.5, 1, 1, 1])


def test_default_architecture_is_tern():
    assert type(build_model(ModelConfig(), 10, 6)) is Tern


def test_dropout_is_where_torch_layers_have_it(tmp_path):
    """In training, over many draws, mean and standard deviation of a layer's output equal those of torch's layer."""
    torch.manual_seed(0)
    torch_layer = nn.TransformerEncoderLayer(16, 4, 20, 0.4, "relu", batch_first=True)
    layer = PaperLayer(16, 4, 20, 0.4)
    state = {f"transformer_encoder_1.layers.0.{name}": value for name, value in torch_layer.state_dict().items()}
    layer.load_state_dict(
        {name.removeprefix("shared.0."): value for name, value in convert_state_dict(state)[0].items()}
    )
    rows, mask = torch.randn(1, 6, 16).expand(40_000, -1, -1), torch.ones(40_000, 6, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(
            layer.train()(rows, mask).mean(0), torch_layer.train()(rows).mean(0), atol=0.03, rtol=0
        )
        torch.testing.assert_close(layer(rows, mask).std(0), torch_layer(rows).std(0), atol=0.03, rtol=0)
