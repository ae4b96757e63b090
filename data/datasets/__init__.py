"""Sub-package `data.datasets`."""

from data.datasets.load import load_dataset
from data.datasets.records import Caption, Dataset, Image, InvalidRecord

__all__ = [
    "Caption",
    "Dataset",
    "Image",
    "InvalidRecord",
    "load_dataset",
]
