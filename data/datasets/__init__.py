"""Datasets: annotation files in, images and captions with ids and splits out; independent of pixels or features."""

from data.datasets.load import load_dataset
from data.datasets.records import Caption, Dataset, Image, InvalidRecord

__all__ = [
    "Caption",
    "Dataset",
    "Image",
    "InvalidRecord",
    "load_dataset",
]
