"""Training on a small world drawn from a seed: it learns, and a run that was killed ends like one that was not."""

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
from tern.training.optim import lr_factor
from tern.training.train import fingerprint, train
from tern.training.trainer import Trainer
from tern.training.validation import evaluate_split
from tests.helpers.tern_world import CONFIG, Killed


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    rows = []
    return train(TrainConfig(**CONFIG), *world, tmp_path_factory.mktemp("run"), rows.append), rows


def test_it_learns(world, tmp_path):
    rows = []
    model = load_model(train(TrainConfig(**(CONFIG | {"epochs": 20})), *world, tmp_path, rows.append))
    regions, tokens, dataset = world
    found = evaluate_split(model, regions, tokens, dataset.select_split("test"))
    # on 20 images chance is about 25 at R@5, and a recall moves in steps of 5: the sum of six is steadier
    assert found["t2i_r5"] > 80
    assert found["i2t_r5"] > 60
    assert found["rsum"] > 440
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_an_epoch_tells_how_long_the_rest_takes(straight, capsys):
    rows = straight[1]
    for row in rows:
        assert row["seconds_left"] == pytest.approx(row["seconds"] * (5 - row["epoch"]))
    print_epoch(rows[0] | {"seconds": 7.0, "seconds_left": 150.0})
    print_epoch(rows[1] | {"seconds": 7.0, "seconds_left": 42.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("7.0 s, ")[2] for line in lines] == ["2.5 min left", "42 s left"]
    assert all(f"epoch {k:>3}/5" in line and "rsum" in line for k, line in enumerate(lines, 1))


@pytest.mark.parametrize("epoch", [1, 3, 5])
@pytest.mark.parametrize("extra", [{}, {"loss": {"name": "hinge"}, "ema": 0.0}])
def test_killed_after_an_epoch_and_started_again_it_ends_the_same(world, tmp_path, straight, epoch, extra):
    config = TrainConfig(**(CONFIG | extra))
    whole = train(config, *world, tmp_path / "whole") if extra else straight[0]

    def kill(row):
        if row["epoch"] == epoch:
            raise Killed

    broken, rows = tmp_path / "broken", []
    with pytest.raises(Killed):
        train(config, *world, broken, kill)
    assert not (broken / "model.json").exists()
    train(config, *world, broken, rows.append)
    assert [row["epoch"] for row in rows] == list(range(epoch + 1, 6))
    for name in ("best.safetensors", "history.csv", "model.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("name", ["best.safetensors", "last.pt", "history.csv"])
def test_killed_while_a_file_is_written_it_ends_the_same(world, tmp_path, straight, monkeypatch, name):
    real, seen = os.replace, []

    def replace(source, target):
        seen.append(str(target).endswith(name))
        if sum(seen) == 2 and seen[-1]:
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        train(TrainConfig(**CONFIG), *world, tmp_path)
    monkeypatch.undo()
    train(TrainConfig(**CONFIG), *world, tmp_path)
    for part in ("best.safetensors", "history.csv", "model.json"):
        assert (tmp_path / part).read_bytes() == (straight[0] / part).read_bytes()


def test_a_finished_run_is_returned_untouched(world, straight):
    folder, _ = straight
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert train(TrainConfig(**CONFIG), *world, folder, lambda row: pytest.fail("it trained")) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_best_epoch_is_the_one_kept(world, straight):
    folder, rows = straight
    card = json.loads((folder / "model.json").read_text())
    means = [np.mean([row["rsum"] for row in rows[max(0, k - 4) : k + 1]]) for k in range(len(rows))]
    assert card["epoch"] == 1 + np.argmax(means)
    assert card["metrics"]["rsum"] == rows[card["epoch"] - 1]["rsum"]
    regions, tokens, dataset = world
    again = evaluate_split(load_model(folder), regions, tokens, dataset.select_split("val"))
    assert again == pytest.approx(card["metrics"])
    names = dict(load_model(folder).named_parameters())  # without the frame of the direct road
    arrays = load_file(folder / "best.safetensors")
    assert card["num_parameters"] == sum(arrays[name].size for name in names)
    with open(folder / "history.csv", newline="") as file:
        assert [float(row["rsum"]) for row in csv.DictReader(file)] == [row["rsum"] for row in rows]


def test_the_callers_random_numbers_are_left_alone(world, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(TrainConfig(**(CONFIG | {"epochs": 1})), *world, tmp_path)
    torch.testing.assert_close(torch.rand(2), expected)


def test_fresh_rows_and_stored_rows_give_one_vector(world, straight):
    regions, tokens, dataset = world
    model, part = load_model(straight[0]), dataset.select_split("test")
    names = [caption.id for caption in part.captions]
    stored = dict(zip(names, np.concatenate([v for _, v in embed_captions(model, tokens, names, 7)]), strict=True))
    for name in names[:5]:
        fresh = embed_new_captions(model, [tokens.read("features", [name])])[0]
        np.testing.assert_allclose(fresh, stored[name], atol=1e-5)
    ids = [image.id for image in part.images]
    seen = np.concatenate([v for _, v in embed_images(model, regions, ids, 6)])
    read = lambda i: [regions.read(field, [i]) for field in ("features", "boxes", "size", "scores")]  # noqa: E731
    photos = [(features, boxes, size[0], scores) for features, boxes, size, scores in map(read, ids)]
    np.testing.assert_allclose(embed_new_images(model, photos), seen, atol=1e-5)


def test_the_name_of_a_run_follows_what_it_depends_on(world):
    regions, tokens, dataset = world
    name = fingerprint(TrainConfig(**CONFIG), *world)
    assert name == fingerprint(TrainConfig(**CONFIG), *world)
    assert name != fingerprint(TrainConfig(**(CONFIG | {"lr": 1e-4})), *world)
    fewer = Dataset("world", dataset.root, dataset.images, dataset.captions[:100] + dataset.captions[101:])
    assert name != fingerprint(TrainConfig(**CONFIG), regions, tokens, fewer)
    more_tests = Dataset(
        "world", dataset.root, (*dataset.images, Image("new.jpg", dataset.images[0].path, "test")), dataset.captions
    )
    assert name == fingerprint(TrainConfig(**CONFIG), regions, tokens, more_tests)


def test_a_loss_that_is_not_finite_stops_and_names_the_images(world, tmp_path):
    config = TrainConfig(**(CONFIG | {"lr": 1e30}))
    with pytest.raises(ValueError, match=r"(?s)loss is (nan|inf).*epoch 1, batch 2.*\.jpg"):
        train(config, *world, tmp_path)


def test_a_gradient_that_is_not_finite_under_a_finite_loss_stops_before_any_state_is_kept(world, tmp_path, monkeypatch):
    real, calls = Trainer.compute_loss, []

    def poisoned(self, *rest):
        calls.append(None)
        loss = real(self, *rest)
        if len(calls) == 3:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    config = TrainConfig(**(CONFIG | {"save_steps": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "compute_loss", poisoned)
        with pytest.raises(ValueError, match=r"(?s)gradient's norm is (nan|inf).*epoch 1, batch 3.*\.jpg"):
            train(config, *world, tmp_path)
    kept = torch.load(tmp_path / "last.pt", weights_only=True)
    assert all(value.isfinite().all() for value in kept["model"].values() if value.is_floating_point())
    assert load_model(train(config, *world, tmp_path)), "the run goes on from there"


def test_two_trainings_in_one_folder_are_refused(world, tmp_path):
    with write_lock(tmp_path), pytest.raises(ValueError, match="is being written by process"):
        train(TrainConfig(**CONFIG), *world, tmp_path)
    assert not (tmp_path / "last.pt").exists()


def test_a_folder_of_another_run_is_refused(world, straight, tmp_path):
    other = TrainConfig(**(CONFIG | {"seed": 1}))
    with pytest.raises(ValueError, match="other settings or data"):
        train(other, *world, straight[0])


def test_loading_an_unfinished_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="not finished"):
        load_model(tmp_path)


def test_the_rate_rises_then_falls_to_nothing():
    rates = [lr_factor(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1)
    assert rates[-1] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("preset", ["paper", "kaylode"])
def test_a_preset_is_resumed_to_the_same_weights_and_loaded_as_what_it_is(preset, world, tmp_path):
    shape = {"width": 32, "visual_layers": 1, "feedforward_dim": 48, "embed_dim": 24}
    config = TrainConfig(preset=preset, epochs=5, images_per_batch=16, lr=3e-3, warmup=0.1, model=shape)
    rows = []

    def kill(row):
        if len(rows) == 3:
            raise Killed
        rows.append(row)

    with pytest.raises(Killed):
        train(config, *world, tmp_path / "killed", kill)
    again = train(config, *world, tmp_path / "killed", rows.append)
    whole = train(config, *world, tmp_path / "whole")
    weights = [load_file(folder / WEIGHTS) for folder in (again, whole)]
    assert all(np.array_equal(value, weights[1][name]) for name, value in weights[0].items())
    assert type(load_model(whole)).__name__ == {"paper": "PaperTern", "kaylode": "KaylodeTern"}[preset]
    assert rows[-1]["epoch"] == 5
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("pooling", ["mean", "gpo"])
def test_a_compiled_model_learns_what_the_plain_one_does(world, tmp_path, monkeypatch, pooling):
    """Graphs are traced and cut as on a GPU; C++ is not generated from them, which takes a minute."""
    compiled, graphs = torch.compile, []

    def traced(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **given: compiled(f, **(given | {"backend": traced})))
    few = CONFIG | {"epochs": 1, "length_groups": 1, "model": CONFIG["model"] | {"pooling": pooling}}
    plain, other = (train(TrainConfig(**few, compile=c), *world, tmp_path / str(c)) for c in (False, True))
    assert graphs, "nothing was compiled"
    expected = load_file(plain / WEIGHTS)
    for name, found in load_file(other / WEIGHTS).items():
        np.testing.assert_allclose(found, expected[name], atol=1e-4, err_msg=name)
