"""How weights move: which of them decay, the rate of each step, their average; and a loss that has stopped to say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tern.config import LossConfig

if TYPE_CHECKING:
    from tern.config import TrainConfig


PLATEAU_BATCHES = 100  # batches in a row on the plateau before it is called one
PLATEAU_TOLERANCE = 0.02  # of the plateau: how far a loss may be from it and still stand on it


def make_param_groups(
    model: nn.Module, loss: nn.Module, weight_decay: float, text: nn.Module | None = None, text_rate: float = 0.1
) -> list[dict[str, Any]]:
    """Parameters for AdamW: matrices decay, vectors and what the loss learns do not.

    `scale` is the part of the rate that a group has: 1, or `text_rate` for those of `text`, a part of the model.
    """
    slow = {id(p) for p in text.parameters()} if text is not None else set()
    found = []
    for scale, mine in ((1.0, False), (text_rate, True)):
        own = [p for p in model.parameters() if p.requires_grad and (id(p) in slow) == mine]
        vectors = [p for p in own if p.ndim < 2]
        vectors += [] if mine else [p for p in loss.parameters() if p.requires_grad]
        found.append({"params": [p for p in own if p.ndim > 1], "weight_decay": weight_decay, "scale": scale})
        found.append({"params": vectors, "weight_decay": 0.0, "scale": scale})
    return [group for group in found if group["params"]]


def build_optimizer(
    config: TrainConfig, model: nn.Module, loss: nn.Module, text: nn.Module | None = None
) -> torch.optim.AdamW:
    """AdamW over the `groups`, fused: one pass over memory where torch's own loop makes six."""
    return torch.optim.AdamW(
        make_param_groups(model, loss, config.weight_decay, text, config.text_lr_scale),
        lr=config.lr, betas=config.betas, eps=config.eps, fused=True,
    )  # fmt: skip


def lr_factor(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Fraction of the highest rate at a step of `steps`.

    A line up for the first `warmup` of all (from 1 on: for so many steps), then a cosine to 0, or `constant`.
    """
    up = max(1, round(warmup if warmup >= 1 else steps * warmup))
    if step < up:
        return (step + 1) / up
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * (step - up) / max(1, steps - up)))


@torch.no_grad()
def update_ema(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's; the decay is small at first, else the start would stay in them."""
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)  # one call for a GPU


def is_on_plateau(loss: float, captions: int, config: LossConfig) -> bool:
    """Whether a loss of the hinge of hardest negatives is that of vectors which are all alike: two margins a pair.

    There each positive scores as its hardest negative does, both ways, and no gradient leads out.

    Args:
        loss: of one batch
        captions: in the batch, which `sum` adds up over
    """
    plateau = 2 * config.margin * (captions if config.reduction == "sum" else 1)
    return abs(loss - plateau) <= PLATEAU_TOLERANCE * plateau
