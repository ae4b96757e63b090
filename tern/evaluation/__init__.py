"""Evaluation: vectors and image ids in, recalls, ranks and NDCG out. Needs numpy, not torch.

The sub-package does not know where vectors come from.
"""

from tern.evaluation.baselines import chance_recall, chance_recalls, fit_ridge, is_near_chance
from tern.evaluation.evaluate import Rerank, SplitVectors, evaluate_vectors
from tern.evaluation.metrics import (
    RECALL_CUTOFFS,
    MissedQueries,
    compute_ranks,
    encode_image_ids,
    retrieval_metrics,
    summarize_ranks,
)
from tern.evaluation.rerank import DEFAULT_CANDIDATES, choose_alignment_weight, rerank_split
from tern.evaluation.results import (
    ChanceRecalls,
    DirectionMetrics,
    Evaluation,
    RetrievalMetrics,
    SplitEvaluation,
    read_evaluation,
    write_evaluation,
)
from tern.evaluation.usable import measure_usable

__all__ = [
    "DEFAULT_CANDIDATES",
    "RECALL_CUTOFFS",
    "ChanceRecalls",
    "DirectionMetrics",
    "Evaluation",
    "MissedQueries",
    "Rerank",
    "RetrievalMetrics",
    "SplitEvaluation",
    "SplitVectors",
    "chance_recall",
    "chance_recalls",
    "choose_alignment_weight",
    "compute_ranks",
    "encode_image_ids",
    "evaluate_vectors",
    "fit_ridge",
    "is_near_chance",
    "measure_usable",
    "read_evaluation",
    "rerank_split",
    "retrieval_metrics",
    "summarize_ranks",
    "write_evaluation",
]
