"""Batch norm over the rows of all processes, for networks that have batch norms.

`torch.nn.SyncBatchNorm` does the same on GPUs only. Shapes: k rows of this process, w features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SharedBatchNorm1d(nn.BatchNorm1d):
    """A batch norm whose mean and variance in training are those of the rows of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the rows: (k, w) -> (k, w)."""
        if not self.training:
            return super().forward(x)
        rows = x.double()  # the variance is a difference of large numbers
        sums = _SumOverProcesses.apply(torch.cat([rows.sum(0), rows.square().sum(0), rows.new_tensor([len(rows)])]))
        count = sums[-1]
        mean = sums[: self.num_features] / count
        var = sums[self.num_features : -1] / count - mean.square()
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.float(), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).float(), self.momentum)
        normalized = ((rows - mean) / (var + self.eps).sqrt()).to(x.dtype)
        return normalized * self.weight + self.bias


class _SumOverProcesses(torch.autograd.Function):
    """Add a tensor over all processes; its gradient is added over them too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def share_batch_norms(model: nn.Module) -> None:
    """Make the batch norms of a network compute over the rows of all processes. Names and weights stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SharedBatchNorm1d
