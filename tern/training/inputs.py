"""What a training reads: two stores and a dataset."""

from __future__ import annotations

from typing import NamedTuple

from data.datasets import Dataset
from data.store import Store


class TrainingInputs(NamedTuple):
    """The data of a training."""

    regions: Store
    """Region store with an item for every image of `train` and `val`."""
    tokens: Store
    """Token store with an item for every caption of `train` and `val`."""
    dataset: Dataset
    """Dataset with the splits `train` and `val`."""
