"""Cross-batch memory against loops over all rows so far, killed and resumed; the VICReg term against loops."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses

from tern.config import LossConfig, TrainConfig
from tern.losses.build import build_loss
from tern.losses.vicreg import vicreg_loss
from tern.training.train import train
from tests.helpers.tern_world import CONFIG, FITTING, Killed, batch
from tests.reference.losses import SLOW, slow_vicreg

pytestmark = pytest.mark.slow


def batches(count, dim=16):
    """Batches of 3 to 5 images; image ids repeat, as they do from epoch to epoch."""
    captions = itertools.cycle([(1, 2, 3, 1, 2), (2, 1, 2), (1, 1, 4, 1)])
    return [batch(next(captions), seed, dim) for seed in range(count)]


def slow_memory(name, data, size):
    """The loss of the last batch: its rows against those of the other modality and the last `size` earlier ones."""
    rows = [[(row, int(label)) for row, label in zip(arrays[k].detach().double().numpy(), arrays[k + 2], strict=True)]
            for arrays in data for k in (0, 1)]  # fmt: skip
    total = 0.0
    for anchors, others in ((0, 1), (1, 0)):
        earlier = [pair for pairs in rows[others:-2:2] for pair in pairs][-size:] if size else []
        total += SLOW[name](*zip(*rows[anchors - 2], strict=True), *zip(*(rows[others - 2] + earlier), strict=True))
    return total


@pytest.mark.parametrize("size", [1, 6, 100])
@pytest.mark.parametrize("name", ["SupConLoss", "MultiSimilarityLoss", "TripletMarginLoss", "NTXentLoss"])
def test_memory_equals_a_double_loop_over_all_rows_so_far(name, size):
    data = batches(4)
    loss = build_loss(LossConfig(name=name, memory_size=size))
    for count, arrays in enumerate(data, 1):
        assert loss(*arrays).item() == pytest.approx(slow_memory(name, data[:count], size), rel=1e-4)


def test_memory_is_filled_from_the_first_batch_and_read_after_start_batch():
    data = batches(4)
    loss = build_loss(LossConfig(name="SupConLoss", memory_size=100, memory_start_batch=2))
    for count, arrays in enumerate(data, 1):
        size = 100 if count > 2 else 0
        assert loss(*arrays).item() == pytest.approx(slow_memory("SupConLoss", data[:count], size), rel=1e-4)


@pytest.mark.parametrize("config", [{"name": "infonce", "temperature": 0.1}, {"name": "SupConLoss"}])
def test_infonce_with_memory_equals_the_library(config):
    data = batches(4)
    loss, library_loss = (
        build_loss(LossConfig(**config, memory_size=7)),
        build_loss(LossConfig(name="SupConLoss", memory_size=7)),
    )
    for arrays in data:
        torch.testing.assert_close(loss(*arrays), library_loss(*arrays), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hinge", "infonce", *FITTING])
def test_rows_of_the_batch_have_a_gradient_and_queued_rows_have_none(name):
    first, second = batches(2)
    loss = build_loss(LossConfig(name=name, memory_size=50))
    loss(*first)
    loss(*second).backward()
    assert all(part.grad is None for part in first[:2])
    assert all(part.grad.isfinite().all() and part.grad.abs().sum() > 0 for part in second[:2])


def test_queues_do_not_change_in_eval_mode():
    first, second = batches(2)
    loss = build_loss(LossConfig(memory_size=50))
    loss(*first)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()(*second)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize("vicreg_weight", [0, 0.1])
def test_memory_resumes_from_its_state_bit_for_bit(tmp_path, stop, vicreg_weight):
    data = batches(6)
    config = LossConfig(memory_size=9, memory_start_batch=2, vicreg_weight=vicreg_weight)
    uninterrupted, interrupted = build_loss(config), build_loss(config)
    expected = [uninterrupted(*arrays) for arrays in data]
    for arrays in data[:stop]:
        interrupted(*arrays)
    torch.save(interrupted.state_dict(), tmp_path / "state.pt")
    resumed = build_loss(config)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [resumed(*arrays).item() for arrays in data[stop:]] == [value.item() for value in expected[stop:]]
    assert all(
        torch.equal(a, b)
        for a, b in zip(uninterrupted.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_memory_rejects_vectors_of_another_width():
    loss = build_loss(LossConfig(memory_size=9))
    loss(*batch())
    with pytest.raises(ValueError, match="8 dimensions, but the memory holds 16"):
        loss(*batch(dim=8))


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    "extra",
    [
        {"loss": {"name": "infonce", "memory_size": 100, "memory_start_batch": 6}},
        {"loss": {"name": "hinge", "memory_size": 40, "vicreg_weight": 0.01}, "all_negatives_epochs": 1},
        {"loss": {"name": "MultiSimilarityLoss", "miner": "MultiSimilarityMiner", "memory_size": 1000}},
    ],
)
def test_training_with_memory_resumes_to_the_same_files(world, tmp_path, epoch, extra):
    config = TrainConfig(**(CONFIG | {"epochs": 3} | extra))
    without_memory = TrainConfig(**(CONFIG | {"epochs": 3} | {"loss": extra["loss"] | {"memory_size": 0}}))

    def kill(row):
        if row.epoch.epoch == epoch:
            raise Killed

    uninterrupted = train(world, config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(world, config, tmp_path / "broken", kill)
    train(world, config, tmp_path / "broken")
    for name in ("best.safetensors", "history.csv", "model.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    curve = (train(world, without_memory, tmp_path / "plain") / "history.csv").read_text()
    assert curve != (uninterrupted / "history.csv").read_text()  # the memory is in use


def test_vicreg_loss_equals_a_loop_over_entries():
    images, captions, y, z = batch(seed=3, dim=5)
    expected = slow_vicreg(images.detach().double().numpy(), captions.detach().double().numpy(), y, z)
    assert vicreg_loss(images, captions, y, z).item() == pytest.approx(expected, rel=1e-5)


def test_vicreg_loss_equals_the_library_with_one_caption_per_image():
    images, captions, y, _ = batch(captions=(1, 1, 1, 1, 1), dim=12)
    captions = F.normalize(captions + images, dim=1)
    expected = losses.VICRegLoss()(images * 12**0.5, ref_emb=captions * 12**0.5)
    torch.testing.assert_close(vicreg_loss(images, captions, y, y), expected)


def test_vicreg_term_is_weighted_and_penalizes_a_collapse():
    images, captions, y, z = data = batch(seed=2)
    without_term, with_term = (build_loss(LossConfig(vicreg_weight=weight))(*data) for weight in (0, 0.5))
    torch.testing.assert_close(with_term - without_term, 0.5 * vicreg_loss(*data))
    point = F.normalize(torch.ones(1, 16), dim=1)
    assert vicreg_loss(point.expand_as(images), point.expand_as(captions), y, z) > 24
    single_rows = [rows[:1].detach().requires_grad_() for rows in (images, captions)]
    vicreg_loss(*single_rows, y[:1], y[:1]).backward()
    assert all(rows.grad.isfinite().all() for rows in single_rows)
