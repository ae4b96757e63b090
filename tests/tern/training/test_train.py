"""Training on a small generated dataset: it learns, and a killed training ends like an uninterrupted one."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from data.datasets.records import Dataset, Image
from data.io.locks import write_lock
from pipeline.cli.options import print_epoch
from tern.config import TrainConfig
from tern.model.embed import embed_captions, embed_images, embed_new_captions, embed_new_images
from tern.model.folder import WEIGHTS, load_model
from tern.training.inputs import TrainingInputs
from tern.training.optim import lr_factor
from tern.training.train import fingerprint, train
from tern.training.trainer import Trainer
from tern.training.validation import evaluate_split
from tests.helpers.tern_world import CONFIG, Killed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    rows = []
    return train(world, TrainConfig(**CONFIG), tmp_path_factory.mktemp("run"), rows.append), rows


HINGE = {"loss": {"name": "hinge"}, "ema": 0.0}


@pytest.fixture(scope="module")
def straight_hinge(world, tmp_path_factory):
    return train(world, TrainConfig(**(CONFIG | HINGE)), tmp_path_factory.mktemp("hinge"))


def test_training_learns(world, tmp_path):
    rows = []
    model = load_model(train(world, TrainConfig(**(CONFIG | {"epochs": 20})), tmp_path, rows.append))
    regions, tokens, dataset = world
    metrics = evaluate_split(model, regions, tokens, dataset.select_split("test"))
    # On 20 images, chance is about 25 at R@5, and a recall moves in steps of 5; the sum of six recalls is less noisy.
    assert metrics.t2i.r5 > 80
    assert metrics.i2t.r5 > 60
    assert metrics.rsum > 440
    assert rows[-1].epoch.loss < 0.7 * rows[0].epoch.loss


def test_epoch_progress_estimates_the_remaining_time(straight, capsys):
    rows = straight[1]
    for row in rows:
        assert row.seconds_left == pytest.approx(row.seconds * (5 - row.epoch.epoch))
    print_epoch(rows[0].model_copy(update={"seconds": 7.0, "seconds_left": 150.0}))
    print_epoch(rows[1].model_copy(update={"seconds": 7.0, "seconds_left": 42.0}))
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("7.0 s, ")[2] for line in lines] == ["2.5 min left", "42 s left"]
    assert all(f"epoch {k:>3}/5" in line and "rsum" in line for k, line in enumerate(lines, 1))


@pytest.mark.parametrize("epoch", [1, 3, 5])
@pytest.mark.parametrize("extra", [{}, HINGE])
def test_training_killed_after_an_epoch_resumes_to_the_same_files(
    world, tmp_path, straight, straight_hinge, epoch, extra
):
    config = TrainConfig(**(CONFIG | extra))
    uninterrupted = straight_hinge if extra else straight[0]

    def kill(row):
        if row.epoch.epoch == epoch:
            raise Killed

    broken, rows = tmp_path / "broken", []
    with pytest.raises(Killed):
        train(world, config, broken, kill)
    assert not (broken / "model.json").exists()
    train(world, config, broken, rows.append)
    assert [row.epoch.epoch for row in rows] == list(range(epoch + 1, 6))
    for name in ("best.safetensors", "history.csv", "model.json"):
        assert (broken / name).read_bytes() == (uninterrupted / name).read_bytes(), name


@pytest.mark.parametrize("name", ["best.safetensors", "last.pt", "history.csv"])
def test_training_killed_while_it_writes_a_file_resumes_to_the_same_files(world, tmp_path, straight, monkeypatch, name):
    original, is_target = os.replace, []

    def replace(source, target):
        is_target.append(str(target).endswith(name))
        if sum(is_target) == 2 and is_target[-1]:
            raise Killed
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        train(world, TrainConfig(**CONFIG), tmp_path)
    monkeypatch.undo()
    train(world, TrainConfig(**CONFIG), tmp_path)
    for part in ("best.safetensors", "history.csv", "model.json"):
        assert (tmp_path / part).read_bytes() == (straight[0] / part).read_bytes()


def test_finished_training_is_returned_unchanged(world, straight):
    folder, _ = straight
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert train(world, TrainConfig(**CONFIG), folder, lambda row: pytest.fail("it trained")) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_model_card_describes_the_best_epoch(world, straight):
    folder, rows = straight
    card = json.loads((folder / "model.json").read_text())
    means = [np.mean([row.epoch.validation.rsum for row in rows[max(0, k - 4) : k + 1]]) for k in range(len(rows))]
    assert card["epoch"] == 1 + np.argmax(means)
    assert card["metrics"]["rsum"] == rows[card["epoch"] - 1].epoch.validation.rsum
    regions, tokens, dataset = world
    repeated = evaluate_split(load_model(folder), regions, tokens, dataset.select_split("val"))
    assert repeated.flat() == pytest.approx(card["metrics"])
    names = dict(load_model(folder).named_parameters())  # without the buffers of the shortcut
    arrays = load_file(folder / "best.safetensors")
    assert card["num_parameters"] == sum(arrays[name].size for name in names)
    with open(folder / "history.csv", newline="") as file:
        assert [float(row["rsum"]) for row in csv.DictReader(file)] == [row.epoch.validation.rsum for row in rows]


def test_training_leaves_the_global_random_state_unchanged(world, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(world, TrainConfig(**(CONFIG | {"epochs": 1})), tmp_path)
    torch.testing.assert_close(torch.rand(2), expected)


def test_new_and_stored_items_have_equal_vectors(world, straight):
    regions, tokens, dataset = world
    model, part = load_model(straight[0]), dataset.select_split("test")
    names = [caption.id for caption in part.captions]
    stored = dict(
        zip(names, np.concatenate([part.vectors for _, part in embed_captions(model, tokens, names, 7)]), strict=True)
    )
    for name in names[:5]:
        fresh = embed_new_captions(model, [tokens.read("features", [name])]).vectors[0]
        np.testing.assert_allclose(fresh, stored[name], atol=1e-5)
    ids = [image.id for image in part.images]
    image_vectors = np.concatenate([part.vectors for _, part in embed_images(model, regions, ids, 6)])
    read = lambda i: [regions.read(field, [i]) for field in ("features", "boxes", "size", "scores")]  # noqa: E731
    photos = [(features, boxes, size[0], scores) for features, boxes, size, scores in map(read, ids)]
    np.testing.assert_allclose(embed_new_images(model, photos).vectors, image_vectors, atol=1e-5)


def test_fingerprint_changes_with_settings_and_training_data(world):
    regions, tokens, dataset = world
    name = fingerprint(world, TrainConfig(**CONFIG))
    assert name == fingerprint(world, TrainConfig(**CONFIG))
    assert name != fingerprint(world, TrainConfig(**(CONFIG | {"lr": 1e-4})))
    fewer = Dataset("world", dataset.root, dataset.images, dataset.captions[:100] + dataset.captions[101:])
    assert name != fingerprint(TrainingInputs(regions, tokens, fewer), TrainConfig(**CONFIG))
    more_tests = Dataset(
        "world", dataset.root, (*dataset.images, Image("new.jpg", dataset.images[0].path, "test")), dataset.captions
    )
    assert name == fingerprint(TrainingInputs(regions, tokens, more_tests), TrainConfig(**CONFIG))


def test_loss_that_is_not_finite_stops_training_and_names_the_images(world, tmp_path):
    config = TrainConfig(**(CONFIG | {"lr": 1e30}))
    with pytest.raises(ValueError, match=r"(?s)loss is (nan|inf).*epoch 1, batch 2.*\.jpg"):
        train(world, config, tmp_path)


def test_gradient_that_is_not_finite_stops_training_before_a_checkpoint(world, tmp_path, monkeypatch):
    original, calls = Trainer.compute_loss, []

    def poisoned(self, *rest):
        calls.append(None)
        loss = original(self, *rest)
        if len(calls) == 3:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    config = TrainConfig(**(CONFIG | {"save_steps": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "compute_loss", poisoned)
        with pytest.raises(ValueError, match=r"(?s)gradient's norm is (nan|inf).*epoch 1, batch 3.*\.jpg"):
            train(world, config, tmp_path)
    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    assert all(value.isfinite().all() for value in checkpoint["model"].values() if value.is_floating_point())
    assert load_model(train(world, config, tmp_path)), "the training resumes from there"


def test_second_training_in_a_folder_is_rejected(world, tmp_path):
    with write_lock(tmp_path), pytest.raises(ValueError, match="is being written by process"):
        train(world, TrainConfig(**CONFIG), tmp_path)
    assert not (tmp_path / "last.pt").exists()


def test_folder_of_another_training_is_rejected(world, straight, tmp_path):
    other = TrainConfig(**(CONFIG | {"seed": 1}))
    with pytest.raises(ValueError, match="other settings or data"):
        train(world, other, straight[0])


def test_loading_an_unfinished_training_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="not finished"):
        load_model(tmp_path)


def test_learning_rate_rises_then_falls_to_zero():
    rates = [lr_factor(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1)
    assert rates[-1] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5, abs=0.01)


PRESET_NETWORKS = {"paper": "PaperTern", "kaylode": "KaylodeTern", "vse-infinity": "VseInfinity"}


@pytest.mark.parametrize("preset", PRESET_NETWORKS)
def test_preset_resumes_to_the_same_weights_and_loads_its_network(preset, world, tmp_path):
    shape = {"width": 32, "visual_layers": int(preset != "vse-infinity"), "feedforward_dim": 48, "embed_dim": 24}
    config = TrainConfig(preset=preset, epochs=5, images_per_batch=16, lr=3e-3, warmup=0.1, model=shape)
    rows = []

    def kill(row):
        if len(rows) == 3:
            raise Killed
        rows.append(row)

    with pytest.raises(Killed):
        train(world, config, tmp_path / "killed", kill)
    repeated = train(world, config, tmp_path / "killed", rows.append)
    uninterrupted = train(world, config, tmp_path / "whole")
    weights = [load_file(folder / WEIGHTS) for folder in (repeated, uninterrupted)]
    assert all(np.array_equal(value, weights[1][name]) for name, value in weights[0].items())
    assert type(load_model(uninterrupted)).__name__ == PRESET_NETWORKS[preset]
    assert rows[-1].epoch.epoch == 5
    assert rows[-1].epoch.loss < rows[0].epoch.loss


@pytest.mark.parametrize("pooling", ["mean", "gpo"])
def test_compiled_model_learns_the_same_weights(world, tmp_path, monkeypatch, pooling):
    """Graphs are traced and cut as on a GPU; no C++ is generated from them, which would take a minute."""
    compiled, graphs = torch.compile, []

    def traced(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled(f, **(options | {"backend": traced})))
    few = CONFIG | {
        "epochs": 1,
        "images_per_batch": 30,
        "length_groups": 1,
        "model": CONFIG["model"] | {"pooling": pooling},
    }
    plain, other = (train(world, TrainConfig(**few, compile=c), tmp_path / str(c)) for c in (False, True))
    assert graphs, "nothing was compiled"
    expected = load_file(plain / WEIGHTS)
    for name, actual in load_file(other / WEIGHTS).items():
        np.testing.assert_allclose(actual, expected[name], atol=1e-4, err_msg=name)
