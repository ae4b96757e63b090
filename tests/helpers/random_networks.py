"""Networks with random weights whose activations stay in a normal range, so that cost and rounding are realistic."""

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers.image_bytes import picture


def calibrated(model: nn.Module, inputs: Tensor, seed: int = 0) -> nn.Module:
    """Return `model` in eval mode with random batch norms that have the statistics of `inputs`.

    inputs (b, 3, h, w), normalized. With identity batch norms, activations grow layer by layer, box deltas saturate,
    and nearly no proposals survive NMS.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.2, generator=generator)
        norm.momentum = None  # averages over all batches, here one
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        getattr(model, "backbone", model)(inputs)
    return model.eval()


def pictures(count: int, height: int, width: int) -> Tensor:
    """Return smooth noise with rectangles, (count, 3, height, width) of about unit variance."""
    pixels = np.stack([picture(seed, height, width) for seed in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 64 - 2
