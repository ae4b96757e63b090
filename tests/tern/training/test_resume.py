"""A training that is killed at any step ends with the same losses and weights, bit for bit, as one that is not."""

import itertools
import json
import os
import signal
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tern.training.trainer as trainer_module
from data.store.store import Store
from tern.config import LossConfig, TrainConfig
from tern.evaluation.results import DirectionMetrics, RetrievalMetrics
from tern.training.checkpoint import STATE
from tern.training.inputs import TrainingInputs
from tern.training.optim import is_on_plateau, lr_factor
from tern.training.train import fingerprint, train
from tern.training.trainer import Trainer
from tests.helpers.repeats import RUN_KILLS
from tests.helpers.tern_world import RESUMED_CONFIG, Words

pytestmark = pytest.mark.slow

STEPS = 4  # per epoch: 60 images in 8 batches, 2 batches per step
KEPT = ("best.safetensors", "last.safetensors", "ema.safetensors", "history.csv", "model.json")


def run_until(moment, config, regions, tokens, dataset, folder):
    """Train in a separate process that kills itself at the `moment`th of these moments (None: never).

    The moments are the start of a step; the middle of a step, when the weights were updated and the EMA was not; and
    the middle of a save, when the file was written and not yet renamed.
    """
    torch.set_num_threads(1)
    passed = itertools.count()

    def kill_at_moment(original):
        def call(*args):
            if next(passed) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        return call

    for target, name in ((Trainer, "train_step"), (trainer_module, "update_ema"), (os, "replace")):
        setattr(target, name, kill_at_moment(getattr(target, name)))
    train(TrainingInputs(Store(regions), Store(tokens), dataset), config, folder)


@pytest.fixture(scope="module")
def processes():
    """Processes forked from one that has imported torch and computed nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.tern.training.test_resume", "torch._dynamo", "matplotlib.figure"])
    return context


@pytest.mark.parametrize(
    "extra", [{"save_steps": 3}, {"loss": {"name": "hinge"}, "save_steps": 0, "save_seconds": 1e-9}]
)
def test_training_killed_at_random_moments_ends_with_the_same_files(world, tmp_path, processes, extra):
    regions, tokens, dataset = world
    config = TrainConfig(**(RESUMED_CONFIG | extra))

    def go(moment, folder):
        process = processes.Process(
            target=run_until, args=(moment, config, regions.folder, tokens.folder, dataset, tmp_path / folder)
        )
        process.start()
        process.join()
        return process.exitcode

    assert go(None, "whole") == 0
    kills = np.random.default_rng(len(extra)).integers(3, 11, 2 * RUN_KILLS)
    assert [go(int(moment), "broken") for moment in kills] == [-signal.SIGKILL] * (2 * RUN_KILLS)
    state = torch.load(tmp_path / "broken" / STATE, weights_only=True)
    assert 0 < state["epoch"] < config.epochs
    assert go(None, "broken") == 0
    for name in KEPT:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_training_resumes_in_the_middle_of_an_epoch(world, tmp_path, monkeypatch):
    """It does not repeat the epoch: only the remaining steps run."""
    config, original, steps = TrainConfig(**RESUMED_CONFIG), Trainer.train_step, []

    def stop(self, *rest):
        if self.global_step == 6:
            raise KeyboardInterrupt
        original(self, *rest)

    monkeypatch.setattr(Trainer, "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(world, config, tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert (state["epoch"], state["step"], len(state["losses"])) == (1, 2, 4)

    def count(self, *rest):
        steps.append(self.global_step)
        original(self, *rest)

    monkeypatch.setattr(Trainer, "train_step", count)
    train(world, config, tmp_path)
    assert steps == list(range(6, 5 * STEPS))


def test_batch_equals_a_slow_loop_over_items(world):
    """Rows are read item by item and kept or left out by the draw, images first; two shares make up the batch."""
    regions, tokens, _ = world
    run = Trainer(world, TrainConfig(**(RESUMED_CONFIG | {"token_drop": 0.3})), "cpu")
    plan, draw = run.plan_batches(0)[1], np.random.default_rng(5)
    expected = []
    for store, ids, drop in ((regions, plan.images, 0.2), (tokens, plan.captions, 0.3)):
        chances = draw.random(sum(len(store.read("features", [name])) for name in ids)).tolist()
        for name in ids:
            rows = store.read("features", [name])
            keep = [chances.pop(0) >= drop or k == 0 for k in range(len(rows))]
            expected.append(rows[keep])
    parts = []
    full_batch = run.reader.read(plan, np.random.default_rng(5))
    halves = [run.reader.read(plan, np.random.default_rng(5), (rank, 2)) for rank in range(2)]
    for steps in ([full_batch], halves):
        images = [row[mask] for step in steps for row, mask in zip(step.images.features, step.images.mask, strict=True)]
        captions = []
        for step in steps:
            rows = [row[mask] for group in step.captions for row, mask in zip(group.features, group.mask, strict=True)]
            captions += [rows[index] for index in step.order]
        parts.append(images + captions)
    for actual in parts:
        assert len(actual) == len(expected)
        for rows, truth in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(rows.numpy(), truth.astype(np.float32))


def test_length_groups_change_the_loss_only_by_rounding(world):
    no_dropout = {
        "model": RESUMED_CONFIG["model"] | {"input_dropout": 0, "dropout": 0},
        "gradient_accumulation_steps": 1,
    }
    runs = [
        Trainer(world, TrainConfig(**(RESUMED_CONFIG | no_dropout | {"length_groups": count})), "cpu")
        for count in (1, 4)
    ]
    plan = runs[0].plan_batches(0)[0]
    losses = [run.compute_loss(plan, 0, run.read_batch((0, plan))) for run in runs]
    torch.testing.assert_close(*losses)
    widths = [[group.mask.shape[1] for group in run.read_batch((0, plan)).captions] for run in runs]
    assert widths[0] == [max(widths[1])]
    assert widths[1] == sorted(widths[1])
    assert widths[1][0] < widths[1][-1]


def test_gradient_accumulation_averages_the_gradients_of_its_batches(world):
    no_dropout = {"model": RESUMED_CONFIG["model"] | {"input_dropout": 0, "dropout": 0}, "max_grad_norm": 1e9}
    run = Trainer(world, TrainConfig(**(RESUMED_CONFIG | no_dropout)), "cpu")
    plans = run.plan_batches(0)[:2]
    for number, plan in enumerate(plans):
        (run.compute_loss(plan, number, run.read_batch((number, plan))) / 2).backward()
    expected = {name: p.grad.clone() for name, p in run.model.named_parameters()}
    run.train_step(plans, 0, iter([run.read_batch(numbered) for numbered in enumerate(plans)]))
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize(("clip", "ema"), [(1e9, 0.0), (0.05, 0.9)])
def test_step_equals_the_update_formulas(world, clip, ema):
    """Warmup, clipping, AdamW by its formula, the encoder at a tenth of the learning rate, and the EMA."""
    no_dropout = RESUMED_CONFIG["model"] | {"input_dropout": 0, "dropout": 0, "shortcut_dropout": 0}
    settings = {"gradient_accumulation_steps": 1, "max_grad_norm": clip, "ema": ema, "weight_decay": 0.1}
    c = TrainConfig(**(RESUMED_CONFIG | settings | {"model": no_dropout}), fine_tune=True, warmup=2)
    run = Trainer(world, c, "cpu", Words())
    slow = {name: p.detach().double() for name, p in run.model.named_parameters()}
    mean, first, second = dict(slow), *({name: torch.zeros_like(p) for name, p in slow.items()} for _ in range(2))
    for step, plan in enumerate(run.plan_batches(0)[:3]):
        run.model.zero_grad()
        run.compute_loss(plan, step, run.read_batch((step, plan))).backward()
        gradients = {name: p.grad.double() for name, p in run.model.named_parameters()}
        norm = sum((g**2).sum() for g in gradients.values()).sqrt()
        assert (norm > clip) == (clip < 1)
        for name, gradient in gradients.items():
            gradient = gradient * min(1, clip / norm)
            lr = c.lr * (0.5, 1, 1)[step] * (0.1 if name.startswith("text.") else 1)
            lr *= 0.5 * (1 + np.cos(np.pi * max(0, step - 2) / (5 * run.steps_per_epoch - 2)))
            first[name] = c.betas[0] * first[name] + (1 - c.betas[0]) * gradient
            second[name] = c.betas[1] * second[name] + (1 - c.betas[1]) * gradient**2
            if slow[name].ndim > 1:
                slow[name] = slow[name] * (1 - lr * 0.1)
            one, two = (m[name] / (1 - beta ** (step + 1)) for m, beta in zip((first, second), c.betas, strict=True))
            slow[name] = slow[name] - lr * one / (two.sqrt() + c.eps)
            keep = min(ema, (1 + step) / (10 + step))
            mean[name] = keep * mean[name] + (1 - keep) * slow[name]
        run.train_step([plan], step, iter([run.read_batch((step, plan))]))
        run.step += 1
    assert any(name.startswith("text.") for name in slow)
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(parameter.double(), slow[name], atol=2e-6, rtol=1e-4, msg=name)
    for name, parameter in run.ema_model.named_parameters():
        torch.testing.assert_close(parameter.double(), mean[name], atol=2e-6, rtol=1e-4, msg=name)


def test_first_epochs_use_the_hinge_loss_over_all_negatives(world):
    no_dropout = {"model": RESUMED_CONFIG["model"] | {"input_dropout": 0, "token_dropout": 0}}
    no_dropout["model"] |= {"dropout": 0, "shortcut_dropout": 0}

    def compute_loss(negatives, all_negatives_epochs, epoch):
        hinge = {"loss": {"name": "hinge", "negatives": negatives}, "all_negatives_epochs": all_negatives_epochs}
        run = Trainer(world, TrainConfig(**(RESUMED_CONFIG | no_dropout | hinge)), "cpu")
        plan = run.plan_batches(0)[0]
        step = run.read_batch((0, plan))
        run.epoch = epoch
        return run.compute_loss(plan, 0, step).item()

    every, hardest = compute_loss("all", 0, 0), compute_loss("hardest", 0, 0)
    assert [compute_loss("hardest", 2, epoch) for epoch in range(4)] == [every, every, hardest, hardest]
    assert every > 1.5 * hardest


@pytest.mark.parametrize(("window", "num_epochs", "best_epoch"), [(1, 5, 2), (3, 7, 7)])
def test_patience_ends_a_training_that_does_not_improve(world, tmp_path, monkeypatch, window, num_epochs, best_epoch):
    """Single epochs do not exceed 80 within three epochs; means of three exceed 76.7 in the last epoch, with 80."""
    rsums = [50.0, 80.0, 70.0, 80.0, 60.0, 90.0, 90.0]
    remaining, direction = iter(rsums), DirectionMetrics(r1=1, r5=1, r10=1, medr=1, meanr=1)
    metrics = lambda *_: RetrievalMetrics(i2t=direction, t2i=direction, rsum=next(remaining))  # noqa: E731
    monkeypatch.setattr(trainer_module, "evaluate_split", metrics)
    rows = []
    config = TrainConfig(**(RESUMED_CONFIG | {"epochs": 7, "patience": 3, "selection_window": window}))
    train(world, config, tmp_path, rows.append)
    assert [row.epoch.validation.rsum for row in rows] == rsums[:num_epochs]
    assert json.loads((tmp_path / "model.json").read_text())["epoch"] == best_epoch


def test_finished_training_leaves_its_last_and_its_ema_weights(world, tmp_path):
    train(world, TrainConfig(**RESUMED_CONFIG), tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    for file, part in (("last.safetensors", "model"), ("ema.safetensors", "averaged")):
        saved = load_file(tmp_path / file)
        assert saved.keys() == state[part].keys()
        assert all(torch.equal(saved[name], value) for name, value in state[part].items())
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("vicreg", [0.0, 0.01])  # an added term does not hide the plateau
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hinge_loss_at_two_margins_warns_once(world, tmp_path, monkeypatch, reduction, vicreg):
    """The plateau is produced, not assumed: all vectors are equal, and the loss is that of the hinge."""
    monkeypatch.setattr("tern.training.trainer.PLATEAU_BATCHES", 5)
    monkeypatch.setattr("tern.networks.default.F.normalize", lambda x, **_: 0 * x + torch.eye(x.shape[-1])[0])
    loss = {"name": "hinge", "reduction": reduction, "vicreg_weight": vicreg}
    extra = {"loss": loss, "all_negatives_epochs": 0, "epochs": 3, "captions_per_image": 1}
    with pytest.warns(UserWarning, match=r"two margins.*all_negatives_epochs") as caught:
        train(world, TrainConfig(**(RESUMED_CONFIG | extra)), tmp_path)
    assert len([w for w in caught if "two margins" in str(w.message)]) == 1


@pytest.mark.parametrize(
    "changes",
    [{"loss": {"name": "hinge", "negatives": "all"}}, {"loss": {"name": "infonce"}}, {"all_negatives_epochs": 3}],
)
def test_other_losses_are_not_checked_for_a_plateau(world, tmp_path, monkeypatch, changes):
    checked: list[float] = []
    monkeypatch.setattr("tern.training.trainer.is_on_plateau", lambda loss, *_: bool(checked.append(loss)))
    hinge = {"loss": {"name": "hinge"}, "epochs": 1, "all_negatives_epochs": 0}
    train(world, TrainConfig(**(RESUMED_CONFIG | hinge | changes)), tmp_path)
    assert not checked, "the test above shows that the other settings are checked"


def test_is_on_plateau_accepts_losses_near_two_margins():
    hinge = {"name": "hinge", "margin": 0.2}
    assert is_on_plateau(0.401, 16, LossConfig(**hinge))
    assert not is_on_plateau(0.35, 16, LossConfig(**hinge))
    assert not is_on_plateau(0.4, 16, LossConfig(**hinge, reduction="sum"))
    assert is_on_plateau(6.4, 16, LossConfig(**hinge, reduction="sum"))


def test_fingerprint_depends_only_on_settings_that_change_numbers(world):
    name = fingerprint(world, TrainConfig(**RESUMED_CONFIG))
    for change in ({"save_steps": 9}, {"save_seconds": 1}, {"device": "cpu"}, {"tensorboard": True}):
        assert fingerprint(world, TrainConfig(**(RESUMED_CONFIG | change))) == name
    for change in ({"gradient_accumulation_steps": 3}, {"patience": 2}, {"length_groups": 1}, {"betas": (0.9, 0.98)}):
        assert fingerprint(world, TrainConfig(**(RESUMED_CONFIG | change))) != name


def test_lr_factor_supports_warmup_steps_and_a_constant_rate():
    rates = [lr_factor(step, 100, 20, "constant") for step in range(100)]
    assert rates[:20] == [pytest.approx((k + 1) / 20) for k in range(20)]
    assert set(rates[20:]) == {1.0}


def test_lr_factor_steps_down_after_the_epoch_of_vse_infinity():
    """Epoch 15 of 25, counted from 0; no warmup."""
    rates = [lr_factor(step, 25 * 7, 0.0, "step") for step in range(25 * 7)]
    assert rates == [1.0] * 15 * 7 + [0.1] * 10 * 7
