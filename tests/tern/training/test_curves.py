"""TensorBoard, if it is installed: an interrupted training and its continuation write one curve."""

import numpy as np
import pytest

from tern.config import TrainConfig
from tern.training.train import train
from tests.helpers.tern_world import RESUMED_CONFIG

pytestmark = pytest.mark.slow


def test_tensorboard_has_one_curve_of_an_interrupted_training(world, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = []

    def stop(row):
        rows.append(row)
        if row.epoch.epoch == 1:
            raise KeyboardInterrupt

    config = TrainConfig(**(RESUMED_CONFIG | {"tensorboard": True, "epochs": 3}))
    with pytest.raises(KeyboardInterrupt):
        train(world, config, tmp_path, stop)
    train(world, config, tmp_path, rows.append)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("validation/rsum")] == pytest.approx(
        [row.epoch.validation.rsum for row in rows]
    )
    losses = events.Scalars("loss/batch")
    assert [event.step for event in losses] == list(range(1, 25))
    means = np.array([event.value for event in losses]).reshape(3, 8).mean(axis=1)
    assert means == pytest.approx([row.epoch.loss for row in rows])


def test_missing_tensorboard_is_reported_with_the_command_to_install_it(world, tmp_path, monkeypatch):
    monkeypatch.setattr("tern.training.curves.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(world, TrainConfig(**(RESUMED_CONFIG | {"tensorboard": True})), tmp_path)
