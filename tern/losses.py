"""What training lowers. Every loss sees image ids, so two captions of one image are never negatives.

Shapes: m images, n captions, e features. Both inputs are unit vectors; labels are whole numbers that
stand for image ids. Positive pairs are those of equal labels, however many; the rest are negatives.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor, nn


class LossConfig(BaseModel):
    """Which loss, and its numbers. Fields that a loss has no use for are ignored by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "infonce"
    """`infonce`, `hinge`, or a class of pytorch_metric_learning.losses such as `SupConLoss`"""
    margin: float = Field(0.2, ge=0)
    """hinge: cosine by which a positive must beat a negative"""
    negatives: Literal["hardest", "all"] = "hardest"
    """hinge: the worst negative of each pair, or the sum over all of them"""
    reduction: Literal["mean", "sum", "nonzero"] = "mean"
    """over positive pairs (hinge), anchors (infonce), or what the library's loss yields; `nonzero`
    is the mean over those above zero"""
    temperature: float = Field(0.07, ge=0.01, le=1)
    """infonce: what cosines are divided by, at the start"""
    learn_temperature: bool = True
    """infonce: whether the temperature is a parameter, held within 0.01 to 1"""
    miner: str = ""
    """library losses: a class of pytorch_metric_learning.miners, or empty for none"""
    distance: Literal["", "cosine", "lp"] = ""
    """library losses: the distance, or empty for the class's own"""
    params: dict[str, float | int | str | bool] = {}
    """library losses: further arguments of the class"""
    miner_params: dict[str, float | int | str | bool] = {}
    """library losses: arguments of the miner"""


class Hinge(nn.Module):
    """VSE++ hinge: each positive pair against true negatives of its row and of its column.

    With `hardest` and `sum` this is the loss of the TERN authors, less their false negatives; it
    equals TripletMarginLoss with BatchEasyHardMiner("all", "hard") of pytorch_metric_learning.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,) -> scalar"""
        scores = images @ captions.T  # (m, n)
        positive = image_ids[:, None] == caption_ids[None, :]  # (m, n)
        return self.one_way(scores, positive) + self.one_way(scores.T, positive.T)

    def one_way(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Anchors in rows: scores (m, n), positive (m, n) -> scalar"""
        row, column = positive.nonzero(as_tuple=True)  # (p,) positive pairs
        negative = scores.masked_fill(positive, float("-inf"))  # (m, n)
        if self.config.negatives == "hardest":
            negative = negative.amax(dim=1, keepdim=True)  # (m, 1)
        gap = self.config.margin - scores[row, column][:, None] + negative[row]  # (p, 1 or n)
        return reduce(F.relu(gap).sum(dim=1), self.config.reduction)


class InfoNCE(nn.Module):
    """Cross-entropy of the softmax over the batch, the target spread evenly over the positives.

    Equal to SupConLoss of pytorch_metric_learning by `ref_emb`, and to CLIP's loss when each image
    has one caption. An anchor without a positive in the batch adds nothing.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.reduction = config.reduction
        start = torch.tensor(math.log(1 / config.temperature))
        self.log_scale = nn.Parameter(start, requires_grad=config.learn_temperature)

    def forward(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,) -> scalar"""
        with torch.no_grad():
            # 100 as CLIP has it: beyond that a few pairs take all of the gradient. The parameter itself is held: a
            # clamp in the graph would leave it without a gradient for good.
            self.log_scale.clamp_(0, math.log(100))
        scale = self.log_scale.exp()
        scores = scale * images @ captions.T  # (m, n)
        positive = (image_ids[:, None] == caption_ids[None, :]).to(scores.dtype)  # (m, n)
        return self.one_way(scores, positive) + self.one_way(scores.T, positive.T)

    def one_way(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Anchors in rows: scores (m, n), positive (m, n) of 0 and 1 -> scalar"""
        count = positive.sum(dim=1)  # (m,)
        each = -(positive * scores.log_softmax(dim=1)).sum(dim=1) / count.clamp(min=1)  # (m,)
        return reduce(each[count > 0], self.reduction)


class FromLibrary(nn.Module):
    """A loss of pytorch_metric_learning, images against captions and captions against images.

    Other modality by `ref_emb`, so that image-image and caption-caption pairs take no part.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        kind = {"mean": reducers.MeanReducer, "sum": reducers.SumReducer, "nonzero": reducers.AvgNonZeroReducer}
        options = dict(config.params, reducer=kind[config.reduction]())
        distance = {"cosine": distances.CosineSimilarity, "lp": distances.LpDistance}
        if config.distance:
            options["distance"] = distance[config.distance]()
        self.loss = class_of(losses, config.name, "loss")(**options)
        self.miner = None
        if config.miner:
            same = {"distance": distance[config.distance]()} if config.distance else {}
            self.miner = class_of(miners, config.miner, "miner")(**config.miner_params, **same)

    def forward(self, images: Tensor, captions: Tensor, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """images (m, e), captions (n, e), labels (m,) and (n,) -> scalar"""
        one = self.one_way(images, image_ids, captions, caption_ids)
        return one + self.one_way(captions, caption_ids, images, image_ids)

    def one_way(self, anchors: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> Tensor:
        """anchors (a, e), others (o, e), their labels -> scalar"""
        # the library takes one tensor object in both places for "the same rows" and then drops
        # the diagonal, which here holds the true pairs
        other_labels = other_labels.clone()
        pairs = self.miner(anchors, labels, others, other_labels) if self.miner else None
        return self.loss(anchors, labels, pairs, others, other_labels)


def build_loss(config: LossConfig) -> nn.Module:
    """The loss as a module: `(images (m, e), captions (n, e), labels (m,), labels (n,)) -> scalar`.

    Raises:
        ValueError: no such loss, or one that cannot compare two sets of vectors by labels alone
    """
    if config.name == "hinge":
        return Hinge(config)
    if config.name == "infonce":
        return InfoNCE(config)
    try:
        loss = FromLibrary(config)
        rehearse(loss)
    except Exception as error:  # each class refuses in its own way; the reason is passed on
        raise ValueError(
            f"loss {config.name!r} (miner {config.miner!r}, params {config.params}) does not fit images against "
            f"captions: {error}; try hinge, infonce, SupConLoss or MultiSimilarityLoss"
        ) from error
    return loss


def rehearse(loss: nn.Module) -> None:
    """Run a loss on 4 images and 8 captions: one that cannot take `ref_emb` fails now, not in an hour."""
    draw = torch.Generator().manual_seed(0)
    images, captions = (F.normalize(torch.randn(k, 8, generator=draw), dim=1) for k in (4, 8))
    values = []
    for _ in range(2):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values.append(loss(images, captions, torch.arange(4), torch.arange(4).repeat_interleave(2)))
    if values[0].ndim or not values[0].isfinite():
        raise ValueError(f"it gives {values[0]} on a sound batch")
    if values[0] != values[1]:
        raise ValueError("it gives two values on one batch: it keeps a state that a resumed run would lack")


def class_of(library: object, name: str, what: str) -> type:
    """The class `name` of a module of the library; ValueError if there is none."""
    found = getattr(library, name, None)
    if not isinstance(found, type):
        raise ValueError(f"pytorch_metric_learning has no {what} class {name!r}")
    return found


def reduce(values: Tensor, how: str) -> Tensor:
    """values (k,) -> scalar; nothing adds up to 0, with a gradient of 0"""
    count = (values > 0).sum() if how == "nonzero" else torch.tensor(len(values))
    return values.sum() if how == "sum" else values.sum() / count.clamp(min=1)
