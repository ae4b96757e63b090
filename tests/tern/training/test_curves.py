"""TensorBoard, where it is installed: what a run that was broken off and one more wrote is one curve."""

import numpy as np
import pytest

from tern.config import TrainConfig
from tern.training.train import train
from tests.helpers.tern_world import RESUMED_CONFIG


def test_tensorboard_has_the_curve(world, tmp_path):  # noqa: F811
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = []

    def stop(row):
        rows.append(row)
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    config = TrainConfig(**(RESUMED_CONFIG | {"tensorboard": True, "epochs": 3}))
    with pytest.raises(KeyboardInterrupt):
        train(config, *world, tmp_path, stop)
    train(config, *world, tmp_path, rows.append)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in found.Scalars("validation/rsum")] == pytest.approx([row["rsum"] for row in rows])
    losses = found.Scalars("loss/batch")
    assert [event.step for event in losses] == list(range(1, 25))
    means = np.array([event.value for event in losses]).reshape(3, 8).mean(axis=1)
    assert means == pytest.approx([row["loss"] for row in rows])


def test_tensorboard_that_is_missing_is_named(world, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tern.training.curves.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(TrainConfig(**(RESUMED_CONFIG | {"tensorboard": True})), *world, tmp_path)
