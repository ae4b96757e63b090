"""What training lowers. Every loss sees image ids, so two captions of one image are never negatives."""

from tern.losses.build import build_loss
from tern.losses.config import LossConfig

__all__ = ["LossConfig", "build_loss"]
