"""Batching: item ids and two stores in, padded batches out. Padding is done here and nowhere else.

The sub-package does not know models, losses or the loop of training.
"""

from tern.batching.pad import pad_captions, pad_images
from tern.batching.plan import BatchIds, plan_batches, rank_slices
from tern.batching.pooled import pool_features
from tern.batching.read import BatchReader, read_captions, read_images

__all__ = [
    "BatchIds",
    "BatchReader",
    "pad_captions",
    "pad_images",
    "plan_batches",
    "pool_features",
    "rank_slices",
    "read_captions",
    "read_images",
]
