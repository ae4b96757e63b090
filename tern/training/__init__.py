"""Sub-package `tern.training`."""

from tern.training.train import fingerprint, train

__all__ = [
    "fingerprint",
    "train",
]
