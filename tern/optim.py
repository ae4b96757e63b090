"""How weights move: which of them decay, the rate of each step, and their average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def groups(model: nn.Module, loss: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for AdamW: matrices decay, vectors and what the loss learns do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2] + [p for p in loss.parameters() if p.requires_grad]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def rate(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Fraction of the highest rate at a step of `steps`.

    A line up for the first `warmup` of all (from 1 on: for so many steps), then a cosine to 0, or `constant`.
    """
    up = max(1, round(warmup if warmup >= 1 else steps * warmup))
    if step < up:
        return (step + 1) / up
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * (step - up) / max(1, steps - up)))


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's; the decay is small at first, else the start would stay in them."""
    for mean, new in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)
