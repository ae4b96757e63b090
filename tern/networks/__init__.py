"""Networks: padded features of images and captions in, unit vectors out.

One file per value of `architecture`. The sub-package does not know stores, batching or training.
"""

from tern.networks.build import build_model, build_trainable
from tern.networks.inputs import CaptionBatch, ImageBatch, TrainingBatch, map_tensors

__all__ = [
    "CaptionBatch",
    "ImageBatch",
    "TrainingBatch",
    "build_model",
    "build_trainable",
    "map_tensors",
]
