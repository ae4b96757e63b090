"""Settings of a training that follow from the size of its dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from data.config import SettingsTable
from data.datasets import Dataset
from tern.config import TrainConfig
from tern.presets import follow_size

Settings = TypeVar("Settings", bound=SettingsTable)


def complete_settings(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Complete the preset `default` with the settings that follow from the size of the dataset.

    Args:
        config: Settings of the training; those that were set explicitly are kept.
        dataset: Images and captions of `train` and `val`. Images without captions do not count.

    Returns:
        The completed settings. Completed ones stay as they are, whatever the dataset.
    """
    if config.preset != "default":
        return config
    images = {split: {c.image_id for c in dataset.select_split(split).captions} for split in ("train", "val")}
    num_captions = len(dataset.select_split("train").captions)
    values = follow_size(len(images["train"]), num_captions, len(images["val"]))
    return _complete(config, values)


def _complete(config: Settings, values: Mapping[str, Any]) -> Settings:
    """Set the values of the keys that nobody set, in nested tables too."""
    update = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            update[key] = _complete(getattr(config, key), value)
        elif key not in config.model_fields_set:
            update[key] = value
    return config.model_copy(update=update)
