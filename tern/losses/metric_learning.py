"""Losses and miners of PyTorch Metric Learning, and the reasons why some do not fit images against captions.

Shapes: a anchors, o other vectors, e embedding.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_pairs
from torch import Tensor

from tern.config import LossConfig
from tern.losses.base import CrossModalLoss

CLASSES = "it learns one vector per class and requires num_classes; here each image would be a class"
ONE_SET = "it compares one set of vectors with itself and does not accept ref_emb"
BASE = "it is a base class of the library, not a loss"
UNSUPPORTED_LOSSES = {
    **dict.fromkeys(("ArcFaceLoss", "CosFaceLoss", "LargeMarginSoftmaxLoss", "NormalizedSoftmaxLoss"), CLASSES),
    **dict.fromkeys(("P2SGradLoss", "ProxyAnchorLoss", "ProxyNCALoss", "SoftTripleLoss", "SphereFaceLoss"), CLASSES),
    "SubCenterArcFaceLoss": CLASSES,
    **dict.fromkeys(("FastAPLoss", "SmoothAPLoss", "NPairsLoss", "HistogramLoss", "RankedListLoss"), ONE_SET),
    **dict.fromkeys(("PNPLoss", "InstanceLoss"), ONE_SET),
    "ManifoldLoss": f"{ONE_SET} or labels",
    "ThresholdConsistentMarginLoss": "it takes positives and negatives from the anchors, even with ref_emb",
    "DynamicSoftMarginLoss": "it has a histogram outside its state_dict, a state that a resumed run would lack",
    "VICRegLoss": "it does not support labels; set vicreg_weight = 0.01 to add it to another loss",
    "SelfSupervisedLoss": "it uses positions as labels, so two captions of an image become negatives",
    "CrossBatchMemory": "it has one queue for both modalities and requires embedding_size; set memory_size = 4096 "
    "instead",
    "MultipleLosses": "it combines several losses, which a plan cannot express",
    **dict.fromkeys(("BaseMetricLossFunction", "GenericPairLoss", "BaseLossWrapper"), BASE),
    **dict.fromkeys(("WeightRegularizerMixin", "EmbeddingRegularizerMixin"), BASE),
}
UNSUPPORTED_MINERS = {
    "BaseMiner": "it is a base class of the library, not a miner",
    "EmbeddingsAlreadyPackagedAsTriplets": "it treats rows 3k, 3k + 1 and 3k + 2 of a batch as a triplet",
}
# Losses that compare the position of an anchor with that of a positive; with ref_emb these are positions in two sets.
NEEDS_JOINT_SET = {"LiftedStructureLoss"}


class MetricLearningLoss(CrossModalLoss):
    """A loss of PyTorch Metric Learning, images against captions and captions against images.

    The other modality is passed as `ref_emb`, so that pairs of one modality are not compared. `reduction` sets the
    reducer: the defaults of the library differ from loss to loss, and some grow as fewer pairs violate the margin.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        check_supported(config)
        reducer = {"mean": reducers.MeanReducer, "sum": reducers.SumReducer, "nonzero": reducers.AvgNonZeroReducer}
        options = dict(config.params, reducer=reducer[config.reduction]())
        distance = {"cosine": distances.CosineSimilarity, "lp": distances.LpDistance}
        if config.distance:
            options["distance"] = distance[config.distance]()
        self.loss = get_class(losses, config.name, "loss")(**options)
        self.needs_joint_set = config.name in NEEDS_JOINT_SET
        self.miner = None
        if config.miner:
            options = {"distance": distance[config.distance]()} if config.distance else {}
            self.miner = get_class(miners, config.miner, "miner")(**config.miner_params, **options)

    def one_direction_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """Compute one direction: anchors (a, e) with labels (a,), others (o, e) with labels (o,) -> scalar."""
        # If both label arguments are one tensor object, the library assumes one set of rows and drops the diagonal,
        # which contains the true pairs here.
        other_labels = other_labels.clone()
        if self.needs_joint_set:
            return self.joint_set_loss(anchors, labels, others, other_labels)
        pairs = self.miner(anchors, labels, others, other_labels) if self.miner else None
        return self.loss(anchors, labels, pairs, others, other_labels)

    def joint_set_loss(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """Compute one direction as one set of a + o rows, with pairs across the modalities only.

        The library indexes a single set of rows here: the others follow the anchors. The arguments are those of
        `one_direction_loss`.
        """
        a, p, b, n = self.pairs(anchors, labels, others, other_labels)
        _, _, c, k = self.pairs(others, other_labels, anchors, labels)  # negatives of the positives
        offset = len(anchors)
        pairs = a, p + offset, torch.cat([b, c + offset]), torch.cat([n + offset, k])
        return self.loss(torch.cat([anchors, others]), torch.cat([labels, other_labels]), pairs)

    def pairs(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> tuple[Tensor, ...]:
        """Select pairs with the miner, or all pairs without one. The arguments are those of `one_direction_loss`.

        Returns:
            Positions of the anchors and the positives of the positive pairs, then of the anchors and the negatives of
            the negative pairs.
        """
        mined = self.miner(anchors, labels, others, other_labels) if self.miner else None
        return convert_to_pairs(mined, labels, other_labels)


def check_supported(config: LossConfig) -> None:
    """Raise ValueError, with the reason, for a loss, miner or parameter that is known not to fit."""
    if config.name in UNSUPPORTED_LOSSES:
        raise ValueError(UNSUPPORTED_LOSSES[config.name])
    if config.miner in UNSUPPORTED_MINERS:
        raise ValueError(f"miner {config.miner}: {UNSUPPORTED_MINERS[config.miner]}")
    for key in ("reducer", "distance"):
        if key in config.params or key in config.miner_params:
            raise ValueError(f"{key} must not be in params or miner_params; set reduction or distance of the loss")
    if config.name == "TripletMarginLoss" and config.params.get("swap"):
        raise ValueError(
            "swap = true uses the position of a positive as that of an anchor; with ref_emb they are in two sets"
        )
    if config.name == "MarginLoss" and config.params.get("num_classes"):
        raise ValueError(
            "num_classes gives one beta per class, here per image, which captions of other images never use"
        )


def get_class(library: object, name: str, what: str) -> type:
    """Return a class of the library.

    Args:
        library: Module of PyTorch Metric Learning: `losses` or `miners`.
        name: Name of the class in the module.
        what: What the class is, for the message: loss or miner.

    Raises:
        ValueError: The module has no class of this name.
    """
    value = getattr(library, name, None)
    if not isinstance(value, type):
        raise ValueError(f"pytorch_metric_learning has no {what} class {name!r}")
    return value
