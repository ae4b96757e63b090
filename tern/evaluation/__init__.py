"""Evaluation: vectors and image ids in, recalls, ranks and NDCG out. Needs numpy, not torch.

The sub-package does not know where vectors come from.
"""

from tern.evaluation.baselines import chance_recall, chance_recalls, fit_ridge, is_near_chance
from tern.evaluation.compare import RankComparison, bootstrap_mean, compare_ranks
from tern.evaluation.evaluate import SplitVectors, VectorRanks, evaluate_vectors, rank_vectors
from tern.evaluation.groups import MIN_QUERIES, GroupMetrics, Recall, measure_group
from tern.evaluation.metric_differences import MetricDifference, compare_metrics
from tern.evaluation.metrics import (
    RECALL_CUTOFFS,
    MissedQueries,
    compute_ranks,
    encode_image_ids,
    retrieval_metrics,
    summarize_ranks,
)
from tern.evaluation.ranks import (
    DIRECTIONS,
    EvaluationRanks,
    Ranks,
    SplitRanks,
    make_split_ranks,
    read_ranks,
    write_ranks,
)
from tern.evaluation.rerank import Rerank, choose_alignment_weight, rerank_split
from tern.evaluation.results import (
    ChanceRecalls,
    DirectionMetrics,
    Evaluation,
    RetrievalMetrics,
    SplitEvaluation,
    read_evaluation,
    write_evaluation,
)
from tern.evaluation.trec import RankedSide, iter_rankings, write_qrels, write_run
from tern.evaluation.usable import measure_usable

__all__ = [
    "DIRECTIONS",
    "MIN_QUERIES",
    "RECALL_CUTOFFS",
    "ChanceRecalls",
    "DirectionMetrics",
    "Evaluation",
    "EvaluationRanks",
    "GroupMetrics",
    "MetricDifference",
    "MissedQueries",
    "RankComparison",
    "RankedSide",
    "Ranks",
    "Recall",
    "Rerank",
    "RetrievalMetrics",
    "SplitEvaluation",
    "SplitRanks",
    "SplitVectors",
    "VectorRanks",
    "bootstrap_mean",
    "chance_recall",
    "chance_recalls",
    "choose_alignment_weight",
    "compare_metrics",
    "compare_ranks",
    "compute_ranks",
    "encode_image_ids",
    "evaluate_vectors",
    "fit_ridge",
    "is_near_chance",
    "iter_rankings",
    "make_split_ranks",
    "measure_group",
    "measure_usable",
    "rank_vectors",
    "read_evaluation",
    "read_ranks",
    "rerank_split",
    "retrieval_metrics",
    "summarize_ranks",
    "write_evaluation",
    "write_qrels",
    "write_ranks",
    "write_run",
]
