"""The authors' model: its size, its outputs against the specification's slow forward, its checkpoints, its recipe."""

import argparse

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import BertConfig, BertModel

from tern.config import ModelConfig, TrainConfig
from tern.losses.build import build_loss
from tern.model.convert import convert_state_dict, load_paper_checkpoint
from tern.networks.build import build_model
from tern.networks.default import Tern
from tern.presets import PRESETS
from tern.training.optim import lr_factor
from tests.reference.tern import SlowTern, hinge

SMALL = {"d": 24, "t": 10, "e": 16, "layers": 3, "shared": 2, "ff": 20}


def tiny_bert(seed):
    torch.manual_seed(seed)
    return BertModel(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    ).eval()


def saved(path, extra=None, **how):
    """A checkpoint with all that the authors' train.py puts beside the weights, and the model it is of."""
    torch.manual_seed(1)
    slow = SlowTern(**SMALL).eval()
    with torch.no_grad():
        for parameter in slow.parameters():  # biases and norms too, and layers that differ
            parameter.add_(0.2 * torch.randn_like(parameter))
    state = {f"img_txt_enc.{name}": value for name, value in slow.state_dict().items()} | (extra or {})
    state |= {f"img_txt_enc.txt_enc.bert_model.{name}": value for name, value in tiny_bert(3).state_dict().items()}
    state["img_txt_enc.txt_enc.word_embeddings.weight"] = torch.ones(4, 3)
    rest = {"best_ndcg": np.mean([0.5, 0.7]), "best_rsum": 1.0, "opt": argparse.Namespace(num_epochs=30)}
    torch.save({"epoch": 3, "model": state, "config": {"model": {"layers": 2}}, **rest}, path, **how)
    return slow


def batch():
    """Five images of 7 regions at most, and five captions of 9 wordpieces at most."""
    torch.manual_seed(2)
    regions, lengths = [7, 1, 4, 7, 3], [9, 2, 5, 1, 9]
    low = torch.rand(5, 7, 2) * 50
    boxes, sizes = torch.cat([low, low + torch.rand(5, 7, 2) * 60], 2), torch.rand(5, 2) * 100 + 110
    return torch.randn(5, 7, 24), boxes, sizes, regions, torch.randn(5, 9, 10), lengths


def real(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "as torch 1.3 wrote"])
def test_an_authors_checkpoint_gives_the_vectors_of_the_specification(tmp_path, how):
    slow = saved(tmp_path / "model_best_rsum.pth.tar", **how)
    ours, bert = load_paper_checkpoint(tmp_path / "model_best_rsum.pth.tar")
    features, boxes, sizes, regions, words, lengths = batch()
    with torch.no_grad():
        seen, told = slow(features, boxes, sizes, regions, words, lengths)
        torch.testing.assert_close(ours.embed_images(features, boxes, sizes, real(regions)), seen, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.embed_captions(words, real(lengths)), told, atol=1e-5, rtol=0)
    assert seen.std(0).min() > 1e-2, "vectors that are all alike would agree anyhow"
    theirs, taken, ids = tiny_bert(3), tiny_bert(4), torch.tensor([[1, 5, 2]])
    taken.load_state_dict(bert)
    torch.testing.assert_close(taken(ids).last_hidden_state, theirs(ids).last_hidden_state)


def test_loss_and_gradients_are_those_of_the_specification(tmp_path):
    slow = saved(tmp_path / "one.pth.tar")
    ours, _ = load_paper_checkpoint(tmp_path / "one.pth.tar")
    features, boxes, sizes, regions, words, lengths = batch()
    theirs = hinge(*slow(features, boxes, sizes, regions, words, lengths))
    theirs.backward()
    seen, told = ours.embed_images(features, boxes, sizes, real(regions)), ours.embed_captions(words, real(lengths))
    mine = build_loss(TrainConfig(preset="paper").loss)(seen, told, torch.arange(5), torch.arange(5))
    mine.backward()
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    names = {f"img_txt_enc.{name}": p.grad for name, p in slow.named_parameters() if p.grad is not None}
    wanted, _ = convert_state_dict(names)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-3, rtol=1e-3, msg=name)


def test_131_7_million_parameters_less_the_dead_ones():
    with torch.device("meta"):
        ours = build_model(TrainConfig(preset="paper").model, 2048, 768)
        theirs = SlowTern()
    dead = sum(p.numel() for part in (theirs.img_enc.fc, theirs.txt_enc.map) for p in part.parameters())
    whole, mine = (sum(p.numel() for p in model.parameters()) for model in (theirs, ours))
    assert (round(whole / 1e6, 1), round(dead / 1e6, 2)) == (131.7, 2.89)
    assert mine == whole - dead


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
def test_other_networks_are_refused(tmp_path, extra, message):
    saved(tmp_path / "x.pth.tar", extra)
    with pytest.raises(ValueError, match=message):
        load_paper_checkpoint(tmp_path / "x.pth.tar")


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("content", [{"model": {"a": torch.ones(1)}, "opt": Evil()}, {"weights": 1}, [1, 2]])
def test_nothing_but_plain_checkpoints_is_read(tmp_path, content, capsys):
    torch.save(content, tmp_path / "x.pth.tar")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_paper_checkpoint(tmp_path / "x.pth.tar")
    assert capsys.readouterr().out == ""
    with pytest.raises(FileNotFoundError):
        load_paper_checkpoint(tmp_path / "none.pth.tar")


def test_a_broken_file_is_refused(tmp_path):
    saved(tmp_path / "x.pth.tar")
    (tmp_path / "x.pth.tar").write_bytes((tmp_path / "x.pth.tar").read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_paper_checkpoint(tmp_path / "x.pth.tar")


def test_a_preset_lies_under_what_is_given():
    assert TrainConfig(preset="default") == TrainConfig()
    plain, changed = (
        TrainConfig(preset="paper", **changes) for changes in ({}, {"lr": 1e-4, "model": {"visual_layers": 2}})
    )
    assert (plain.lr, plain.warmup, plain.max_grad_norm, plain.ema) == (2e-6, 1000, 2.0, 0.0)
    assert (changed.lr, changed.model.visual_layers, changed.model.width) == (1e-4, 2, 2048)
    assert changed.loss == plain.loss
    assert TrainConfig(preset="paper", loss={"name": "infonce"}).loss == TrainConfig(loss={"name": "infonce"}).loss
    for preset in PRESETS:
        config = TrainConfig(preset=preset)
        assert TrainConfig(**config.model_dump(mode="json")) == config, "what a finished run's card says"


@pytest.mark.parametrize(
    "given",
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
def test_what_does_not_fit_a_preset_is_refused(given):
    with pytest.raises(ValidationError):
        TrainConfig(**given)


def test_the_rate_rises_for_1000_steps_and_stays():
    c = TrainConfig(preset="paper")
    rates = [lr_factor(step, 200_000, c.warmup, c.schedule) for step in (0, 499, 999, 1000, 199_999)]
    np.testing.assert_allclose(rates, [0.001, 0.5, 1, 1, 1])


def test_modern_is_the_network_of_the_model_file():
    assert type(build_model(ModelConfig(), 10, 6)) is Tern


def test_dropout_falls_where_the_specification_lets_it(tmp_path):
    """In training, over many draws, the mean and spread of a layer's output are those of torch's own layer."""
    torch.manual_seed(0)
    from tern.networks.paper import PaperLayer

    theirs = nn.TransformerEncoderLayer(16, 4, 20, 0.4, "relu", batch_first=True)
    mine = PaperLayer(16, 4, 20, 0.4)
    sources = {f"transformer_encoder_1.layers.0.{name}": value for name, value in theirs.state_dict().items()}
    mine.load_state_dict(
        {name.removeprefix("shared.0."): value for name, value in convert_state_dict(sources)[0].items()}
    )
    rows, mask = torch.randn(1, 6, 16).expand(40_000, -1, -1), torch.ones(40_000, 6, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(mine.train()(rows, mask).mean(0), theirs.train()(rows).mean(0), atol=0.03, rtol=0)
        torch.testing.assert_close(mine(rows, mask).std(0), theirs(rows).std(0), atol=0.03, rtol=0)
