"""Sub-package `tern.evaluation`."""

from tern.evaluation.evaluate import evaluate_vectors
from tern.evaluation.metrics import RECALL_CUTOFFS, compute_ranks, encode_image_ids, summarize_ranks

__all__ = [
    "RECALL_CUTOFFS",
    "compute_ranks",
    "encode_image_ids",
    "evaluate_vectors",
    "summarize_ranks",
]
