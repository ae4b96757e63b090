"""Losses: unit vectors of a batch and their image ids in, one scalar out.

Every loss receives image ids, so that two captions of one image are never negatives. The sub-package does not know
networks, stores or training.
"""

from tern.losses.base import CrossModalLoss
from tern.losses.build import build_loss

__all__ = [
    "CrossModalLoss",
    "build_loss",
]
