"""Update of the weights: weight decay, learning rate per step, EMA; and detection of a loss on its plateau."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tern.config import LossConfig, TrainConfig

STEP_POSITION, STEP_FACTOR = 0.6, 0.1  # of the schedule `step`: epoch 15 of 25 in VSE-infinity
PLATEAU_BATCHES = 100  # consecutive batches on the plateau before a warning
PLATEAU_TOLERANCE = 0.02  # maximum relative distance of a loss from the plateau


def make_param_groups(
    model: nn.Module,
    loss: nn.Module,
    weight_decay: float,
    text: nn.Module | None = None,
    text_lr_scale: float = 0.1,
) -> list[dict[str, Any]]:
    """Make the parameter groups of AdamW; only matrices of the network have weight decay.

    Args:
        model: The network.
        loss: The loss.
        weight_decay: Weight decay of matrices.
        text: Text encoder inside `model`, if it is trained.
        text_lr_scale: Learning rate of `text` as a fraction of that of the rest; a group has its factor as `scale`.
    """
    text_ids = {id(p) for p in text.parameters()} if text is not None else set()
    groups: list[dict[str, Any]] = []
    for scale, is_text in ((1.0, False), (text_lr_scale, True)):
        parameters = [p for p in model.parameters() if p.requires_grad and (id(p) in text_ids) == is_text]
        vectors = [p for p in parameters if p.ndim < 2]
        vectors += [] if is_text else [p for p in loss.parameters() if p.requires_grad]
        groups.append({"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, "scale": scale})
        groups.append({"params": vectors, "weight_decay": 0.0, "scale": scale})
    return [group for group in groups if group["params"]]


def build_optimizer(
    config: TrainConfig, model: nn.Module, loss: nn.Module, text: nn.Module | None = None
) -> torch.optim.AdamW:
    """Build AdamW over `make_param_groups`.

    It is fused: one pass over memory instead of the six of torch's own loop.

    Args:
        config: Learning rate, weight decay and the constants of AdamW.
        model: The network.
        loss: The loss.
        text: Text encoder inside `model`, if it is trained.
    """
    return torch.optim.AdamW(
        make_param_groups(model, loss, config.weight_decay, text, config.text_lr_scale),
        lr=config.lr, betas=config.betas, eps=config.eps, fused=True,
    )  # fmt: skip


def lr_factor(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Compute the learning rate of a step as a fraction of the maximum.

    Args:
        step: Number of the step, from 0.
        steps: Number of all steps.
        warmup: Steps of the linear warmup: a fraction of all steps if below 1, else their number.
        schedule: After the warmup, `cosine` to decrease to 0, `constant`, or `step` to decrease once.
    """
    warmup_steps = max(1, round(warmup if warmup >= 1 else steps * warmup))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "step" and step >= round(steps * STEP_POSITION):
        return STEP_FACTOR
    if schedule != "cosine":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the EMA weights towards those of the model by a fraction of 1 - `decay`, and copy its buffers, in place.

    Args:
        ema_model: Model with the EMA weights.
        model: Model that is trained, with the same parameters.
        decay: Fraction of the EMA weights that is kept, 0 to 1.
    """
    torch._foreach_lerp_(
        list(ema_model.parameters()), list(model.parameters()), 1 - decay
    )  # one call for all parameters
    for ema_buffer, buffer in zip(ema_model.buffers(), model.buffers(), strict=True):
        ema_buffer.copy_(buffer)  # the statistics of a batch norm are averages already


def is_on_plateau(loss: float, num_captions: int, config: LossConfig) -> bool:
    """Return whether a hinge loss with hardest negatives has the value that equal vectors give.

    The value is two margins per pair. There, each positive scores as high as its hardest negative in both directions,
    and the gradient is 0.

    Args:
        loss: Loss of one batch.
        num_captions: Number of captions in the batch, over which the reduction `sum` adds.
        config: Settings of the loss.
    """
    plateau = 2 * config.margin * (num_captions if config.reduction == "sum" else 1)
    return abs(loss - plateau) <= PLATEAU_TOLERANCE * plateau
