"""Training: two stores and a dataset in, a folder with the best weights and a model card out.

A training that was killed at any moment resumes, and ends on a CPU with the same bits as one without interruption. The
sub-package does not know plans, extractors or indexes.
"""

from tern.training.history import HISTORY, Epoch, EpochProgress, read_history
from tern.training.inputs import TrainingInputs
from tern.training.train import OnEpoch, describe_hardware, fingerprint, train

__all__ = [
    "HISTORY",
    "Epoch",
    "EpochProgress",
    "OnEpoch",
    "TrainingInputs",
    "describe_hardware",
    "fingerprint",
    "read_history",
    "train",
]
