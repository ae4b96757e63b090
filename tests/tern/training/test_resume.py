"""A training that is killed at any step, and one that is not: the same losses and the same weights, bit for bit."""

import itertools
import json
import os
import signal
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tern.training.trainer as run_module
from data.store.store import Store
from tern.config import LossConfig, TrainConfig
from tern.training.checkpoint import STATE
from tern.training.optim import is_on_plateau, lr_factor
from tern.training.train import train
from tern.training.trainer import Trainer
from tests.helpers.tern_world import RESUMED_CONFIG, Words

STEPS = 4  # an epoch: 60 images, 8 batches of them, 2 batches a step
KEPT = ("best.safetensors", "last.safetensors", "ema.safetensors", "history.csv", "model.json")


def run_until(moment, config, regions, tokens, dataset, folder):
    """In a process of its own: train, and die without a word at the `moment`th of these moments (None: never).

    They are the beginning of a step, its middle, when the weights have moved and their average has not, and that
    of a save, when what was written has not got its name.
    """
    torch.set_num_threads(1)
    passed = itertools.count()

    def deadly(real):
        def counted(*given):
            if next(passed) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)

        return counted

    for place, name in ((Trainer, "one_step"), (run_module, "average"), (os, "replace")):
        setattr(place, name, deadly(getattr(place, name)))
    train(config, Store(regions), Store(tokens), dataset, folder)


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a clean one that has imported torch and computed nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.tern.training.test_resume", "torch._dynamo", "matplotlib.figure"])
    return context


@pytest.mark.parametrize(
    "extra", [{"save_steps": 3}, {"loss": {"name": "hinge"}, "save_steps": 0, "save_seconds": 1e-9}]
)
def test_killed_at_ten_random_moments_it_ends_the_same(world, tmp_path, processes, extra):  # noqa: F811
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
    kills = np.random.default_rng(len(extra)).integers(3, 11, 10)
    assert [go(int(moment), "broken") for moment in kills] == [-signal.SIGKILL] * 10
    state = torch.load(tmp_path / "broken" / STATE, weights_only=True)
    assert 0 < state["epoch"] < config.epochs
    assert go(None, "broken") == 0
    for name in KEPT:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_state_in_the_middle_of_an_epoch_is_gone_on_from(world, tmp_path, monkeypatch):  # noqa: F811
    """And not the beginning of the epoch: the steps that are left are all that is done."""
    config, real, done = TrainConfig(**RESUMED_CONFIG), Trainer.train_step, []

    def stop(self, *rest):
        if self.global_step == 6:
            raise KeyboardInterrupt
        real(self, *rest)

    monkeypatch.setattr(Trainer, "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, *world, tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert (state["epoch"], state["step"], len(state["losses"])) == (1, 2, 4)

    def count(self, *rest):
        done.append(self.global_step)
        real(self, *rest)

    monkeypatch.setattr(Trainer, "train_step", count)
    train(config, *world, tmp_path)
    assert done == list(range(6, 5 * STEPS))


def test_a_step_holds_what_a_slow_loop_reads(world):  # noqa: F811
    """Rows item by item, each kept or left out by the draw, images first; halves of a step are halves of it."""
    regions, tokens, dataset = world
    run = Trainer(TrainConfig(**(RESUMED_CONFIG | {"token_drop": 0.3})), regions, tokens, dataset, "cpu")
    plan, draw = run.plan_batches(0)[1], np.random.default_rng(5)
    expected = []
    for store, ids, drop in ((regions, plan.images, 0.2), (tokens, plan.captions, 0.3)):
        chances = draw.random(sum(len(store.read("features", [name])) for name in ids)).tolist()
        for name in ids:
            rows = store.read("features", [name])
            stays = [chances.pop(0) >= drop or k == 0 for k in range(len(rows))]
            expected.append(rows[stays])
    found = []
    whole = run.sources.read(plan, np.random.default_rng(5))
    halves = [run.sources.read(plan, np.random.default_rng(5), (rank, 2)) for rank in range(2)]
    for steps in ([whole], halves):
        images = [row[mask] for step in steps for row, mask in zip(step.images.features, step.images.mask, strict=True)]
        captions = []
        for step in steps:
            rows = [row[mask] for group in step.captions for row, mask in zip(group.features, group.mask, strict=True)]
            captions += [rows[place] for place in step.order]
        found.append(images + captions)
    for each in found:
        assert len(each) == len(expected)
        for rows, truth in zip(each, expected, strict=True):
            np.testing.assert_array_equal(rows.numpy(), truth.astype(np.float32))


def test_groups_by_length_change_nothing_but_rounding(world):  # noqa: F811
    regions, tokens, dataset = world
    still = {"model": RESUMED_CONFIG["model"] | {"input_dropout": 0, "dropout": 0}, "gradient_accumulation_steps": 1}
    runs = [
        Trainer(TrainConfig(**(RESUMED_CONFIG | still | {"length_groups": count})), regions, tokens, dataset, "cpu")
        for count in (1, 4)
    ]
    plan = runs[0].plan_batches(0)[0]
    losses = [run.compute_loss(plan, 0, run.read_batch((0, plan))) for run in runs]
    torch.testing.assert_close(*losses)
    widths = [[group.mask.shape[1] for group in run.read_batch((0, plan)).captions] for run in runs]
    assert widths[0] == [max(widths[1])]
    assert widths[1] == sorted(widths[1])
    assert widths[1][0] < widths[1][-1]


def test_accumulated_batches_move_the_weights_by_the_mean_of_their_gradients(world):  # noqa: F811
    regions, tokens, dataset = world
    still = {"model": RESUMED_CONFIG["model"] | {"input_dropout": 0, "dropout": 0}, "max_grad_norm": 1e9}
    run = Trainer(TrainConfig(**(RESUMED_CONFIG | still)), regions, tokens, dataset, "cpu")
    plans = run.plan_batches(0)[:2]
    for number, plan in enumerate(plans):
        (run.compute_loss(plan, number, run.read_batch((number, plan))) / 2).backward()
    expected = {name: p.grad.clone() for name, p in run.model.named_parameters()}
    run.train_step(plans, 0, iter([run.read_batch(numbered) for numbered in enumerate(plans)]))
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize(("clip", "ema"), [(1e9, 0.0), (0.05, 0.9)])
def test_steps_are_the_update_written_out(world, clip, ema):  # noqa: F811
    """Warm-up, clipping, AdamW by its formula, the encoder at a tenth of the rate, and the average of the weights."""
    regions, tokens, dataset = world
    still = RESUMED_CONFIG["model"] | {"input_dropout": 0, "dropout": 0, "shortcut_dropout": 0}
    c = TrainConfig(
        **(RESUMED_CONFIG | {"model": still, "gradient_accumulation_steps": 1, "max_grad_norm": clip, "ema": ema, "weight_decay": 0.1}),
        fine_tune=True, warmup=2,
    )  # fmt: skip
    run = Trainer(c, regions, tokens, dataset, "cpu", Words())
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


def test_the_first_epochs_take_the_hinge_of_all_negatives(world):  # noqa: F811
    still = {"model": RESUMED_CONFIG["model"] | {"input_dropout": 0, "dropout": 0, "shortcut_dropout": 0}}

    def loss(negatives, easy_epochs, epoch):
        hinge = {"loss": {"name": "hinge", "negatives": negatives}, "all_negatives_epochs": easy_epochs}
        run = Trainer(TrainConfig(**(RESUMED_CONFIG | still | hinge)), *world, "cpu")
        plan = run.plan_batches(0)[0]
        step = run.read_batch((0, plan))
        run.epoch = epoch
        return run.compute_loss(plan, 0, step).item()

    easy, hard = loss("all", 0, 0), loss("hardest", 0, 0)
    assert [loss("hardest", 2, epoch) for epoch in range(4)] == [easy, easy, hard, hard]
    assert easy > 1.5 * hard


@pytest.mark.parametrize(("over", "seen", "chosen"), [(1, 5, 2), (3, 7, 7)])
def test_patience_ends_a_run_that_gets_no_better(world, tmp_path, monkeypatch, over, seen, chosen):  # noqa: F811
    """By single epochs 80 is not surpassed in three; by means of three 76.7 is, in the last one: 80."""
    from tern.training import trainer as module

    marks = [50.0, 80.0, 70.0, 80.0, 60.0, 90.0, 90.0]
    told, names = iter(marks), ("t2i_r1", "i2t_r1")
    monkeypatch.setattr(module, "validate", lambda *_: {"rsum": next(told)} | dict.fromkeys(names, 1.0))
    rows = []
    config = TrainConfig(**(RESUMED_CONFIG | {"epochs": 7, "patience": 3, "selection_window": over}))
    train(config, *world, tmp_path, rows.append)
    assert [row["rsum"] for row in rows] == marks[:seen]
    assert json.loads((tmp_path / "model.json").read_text())["epoch"] == chosen


def test_the_last_and_the_averaged_weights_are_left_whole(world, tmp_path):  # noqa: F811
    train(TrainConfig(**RESUMED_CONFIG), *world, tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    for file, part in (("last.safetensors", "model"), ("ema.safetensors", "averaged")):
        kept = load_file(tmp_path / file)
        assert kept.keys() == state[part].keys()
        assert all(torch.equal(kept[name], value) for name, value in state[part].items())
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("vicreg", [0.0, 0.01])  # a term beside the hinge does not hide it
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_hinge_at_two_margins_is_warned_of_once(world, tmp_path, monkeypatch, reduction, vicreg):  # noqa: F811
    """The plateau is made, not assumed: all vectors are alike, and the loss is what the hinge then gives."""
    monkeypatch.setattr("tern.training.trainer.PLATEAU_BATCHES", 5)
    monkeypatch.setattr("tern.networks.default.F.normalize", lambda x, **_: 0 * x + torch.eye(x.shape[-1])[0])
    loss = {"name": "hinge", "reduction": reduction, "vicreg_weight": vicreg}
    extra = {"loss": loss, "all_negatives_epochs": 0, "epochs": 3, "captions_per_image": 1}
    with pytest.warns(UserWarning, match=r"two margins.*easy_epochs") as caught:
        train(TrainConfig(**(RESUMED_CONFIG | extra)), *world, tmp_path)
    assert len([w for w in caught if "two margins" in str(w.message)]) == 1


@pytest.mark.parametrize(
    "changes",
    [{"loss": {"name": "hinge", "negatives": "all"}}, {"loss": {"name": "infonce"}}, {"all_negatives_epochs": 3}],
)
def test_other_losses_have_no_plateau(world, tmp_path, monkeypatch, changes):  # noqa: F811
    looked: list[float] = []
    monkeypatch.setattr("tern.training.trainer.is_on_plateau", lambda loss, *_: bool(looked.append(loss)))
    hinge = {"loss": {"name": "hinge"}, "epochs": 1, "all_negatives_epochs": 0}
    train(TrainConfig(**(RESUMED_CONFIG | hinge | changes)), *world, tmp_path)
    assert not looked, "that it is looked at else, the test above shows"


def test_what_is_near_two_margins():
    hinge = {"name": "hinge", "margin": 0.2}
    assert is_on_plateau(0.401, 16, LossConfig(**hinge))
    assert not is_on_plateau(0.35, 16, LossConfig(**hinge))
    assert not is_on_plateau(0.4, 16, LossConfig(**hinge, reduction="sum"))
    assert is_on_plateau(6.4, 16, LossConfig(**hinge, reduction="sum"))


def test_what_names_a_run_is_what_decides_its_numbers(world):  # noqa: F811
    from tern.training.train import fingerprint

    name = fingerprint(TrainConfig(**RESUMED_CONFIG), *world)
    for change in ({"save_steps": 9}, {"save_seconds": 1}, {"device": "cpu"}, {"tensorboard": True}):
        assert fingerprint(TrainConfig(**(RESUMED_CONFIG | change)), *world) == name
    for change in ({"gradient_accumulation_steps": 3}, {"patience": 2}, {"length_groups": 1}, {"betas": (0.9, 0.98)}):
        assert fingerprint(TrainConfig(**(RESUMED_CONFIG | change)), *world) != name


def test_a_warm_up_in_steps_and_a_constant_rate():
    rates = [lr_factor(step, 100, 20, "constant") for step in range(100)]
    assert rates[:20] == [pytest.approx((k + 1) / 20) for k in range(20)]
    assert set(rates[20:]) == {1.0}
