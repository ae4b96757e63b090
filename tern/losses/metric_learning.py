"""Losses and miners of PyTorch Metric Learning, and why some of them do not fit images against captions."""

from __future__ import annotations

import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_pairs
from torch import Tensor

from tern.config import LossConfig
from tern.losses.base import CrossModalLoss

CLASSES = "it learns a vector a class and wants num_classes: here each image would be a class of its own"
ONE_SET = "it compares one set of vectors with itself and takes no ref_emb"
BASE = "it is a base class of the library and no loss"
UNSUPPORTED_LOSSES = {
    **dict.fromkeys(("ArcFaceLoss", "CosFaceLoss", "LargeMarginSoftmaxLoss", "NormalizedSoftmaxLoss"), CLASSES),
    **dict.fromkeys(("P2SGradLoss", "ProxyAnchorLoss", "ProxyNCALoss", "SoftTripleLoss", "SphereFaceLoss"), CLASSES),
    "SubCenterArcFaceLoss": CLASSES,
    **dict.fromkeys(("FastAPLoss", "SmoothAPLoss", "NPairsLoss", "HistogramLoss", "RankedListLoss"), ONE_SET),
    **dict.fromkeys(("PNPLoss", "InstanceLoss"), ONE_SET),
    "ManifoldLoss": f"{ONE_SET}, nor labels",
    "ThresholdConsistentMarginLoss": "it looks positives and negatives up among the anchors, even with ref_emb",
    "DynamicSoftMarginLoss": "it keeps a histogram outside its state_dict, a state that a resumed run would lack",
    "VICRegLoss": "labels are not supported by it; as an added term it is there: vicreg = 0.01",
    "SelfSupervisedLoss": "it wraps a loss and puts places for labels: two captions of an image become negatives",
    "CrossBatchMemory": "it wants an embedding_size and has one queue for both modalities; set memory = 4096 instead",
    "MultipleLosses": "it wraps several losses, which a plan cannot hold",
    **dict.fromkeys(("BaseMetricLossFunction", "GenericPairLoss", "BaseLossWrapper"), BASE),
    **dict.fromkeys(("WeightRegularizerMixin", "EmbeddingRegularizerMixin"), BASE),
}
UNSUPPORTED_MINERS = {
    "BaseMiner": "it is a base class of the library and no miner",
    "EmbeddingsAlreadyPackagedAsTriplets": "it takes row 3k, 3k + 1 and 3k + 2 of a batch for a triplet",
}
NEEDS_JOINT_SET = {
    "LiftedStructureLoss"
}  # compares an anchor's place with a positive's, which are of two sets under ref_emb


class MetricLearningLoss(CrossModalLoss):
    """A loss of pytorch_metric_learning, images against captions and captions against images.

    Other modality by `ref_emb`, so that image-image and caption-caption pairs take no part. The reducer is set by
    `reduction`: the library's own differ from loss to loss, and some grow as fewer pairs violate the margin.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        check_supported(config)
        kind = {"mean": reducers.MeanReducer, "sum": reducers.SumReducer, "nonzero": reducers.AvgNonZeroReducer}
        options = dict(config.params, reducer=kind[config.reduction]())
        distance = {"cosine": distances.CosineSimilarity, "lp": distances.LpDistance}
        if config.distance:
            options["distance"] = distance[config.distance]()
        self.loss = get_class(losses, config.name, "loss")(**options)
        self.joined = config.name in NEEDS_JOINT_SET
        self.miner = None
        if config.miner:
            same = {"distance": distance[config.distance]()} if config.distance else {}
            self.miner = get_class(miners, config.miner, "miner")(**config.miner_params, **same)

    def one_direction_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """anchors (a, e), others (o, e), their labels -> scalar"""
        # the library takes one tensor object in both places for "the same rows" and then drops
        # the diagonal, which here holds the true pairs
        other_labels = other_labels.clone()
        if self.joined:
            return self.joint_set_loss(anchors, labels, others, other_labels)
        pairs = self.miner(anchors, labels, others, other_labels) if self.miner else None
        return self.loss(anchors, labels, pairs, others, other_labels)

    def joint_set_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """The same as one set of a + o rows, with pairs across the modalities only."""
        a, p, b, n = self.pairs(anchors, labels, others, other_labels)
        _, _, c, k = self.pairs(others, other_labels, anchors, labels)  # negatives of the positives
        behind = len(anchors)
        pairs = a, p + behind, torch.cat([b, c + behind]), torch.cat([n + behind, k])
        return self.loss(torch.cat([anchors, others]), torch.cat([labels, other_labels]), pairs)

    def pairs(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> tuple[Tensor, ...]:
        """Places (anchor, positive, anchor, negative) of the pairs that count."""
        found = self.miner(anchors, labels, others, other_labels) if self.miner else None
        return convert_to_pairs(found, labels, other_labels)


def check_supported(config: LossConfig) -> None:
    """ValueError, with the reason, for what is known not to fit."""
    if config.name in UNSUPPORTED_LOSSES:
        raise ValueError(UNSUPPORTED_LOSSES[config.name])
    if config.miner in UNSUPPORTED_MINERS:
        raise ValueError(f"miner {config.miner}: {UNSUPPORTED_MINERS[config.miner]}")
    for key in ("reducer", "distance"):
        if key in config.params or key in config.miner_params:
            raise ValueError(f"{key} is no parameter here; set reduction = or distance = of the loss")
    if config.name == "TripletMarginLoss" and config.params.get("swap"):
        raise ValueError("swap = true takes the place of a positive for that of an anchor, which ref_emb makes another")
    if config.name == "MarginLoss" and config.params.get("num_classes"):
        raise ValueError("num_classes: a beta a class would be one an image, which captions of others never see")


def get_class(library: object, name: str, what: str) -> type:
    """The class `name` of a module of the library; ValueError if there is none."""
    found = getattr(library, name, None)
    if not isinstance(found, type):
        raise ValueError(f"pytorch_metric_learning has no {what} class {name!r}")
    return found
