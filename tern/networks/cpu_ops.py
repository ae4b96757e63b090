"""Operations that torch runs slowly on a CPU: three in bfloat16, computed with fewer passes over memory, and a sort
in float32.

Elsewhere (on a GPU, in another dtype, in a traced graph) torch's own operations run. The arithmetic is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16  # number of values of a random draw of `dropout`: a rate of 0.1 becomes 0.100006


class _LinearWithContiguousGrad(torch.autograd.Function):
    """F.linear whose weight gradient is a product of two contiguous matrices.

    torch passes a transposed view of the gradient to the library, which takes 1.5 times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # (n, out)
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        return grad_x, rows.t().contiguous() @ x.flatten(0, -2), rows.sum(dim=0)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute F.linear; under autocast to bfloat16 too, as F.linear does.

    Args:
        x: (..., d).
        weight: (e, d).
        bias: (e,).

    Returns:
        (..., e).
    """
    is_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if x.device.type != "cpu" or not is_bf16 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    return _LinearWithContiguousGrad.apply(x.bfloat16(), weight.bfloat16(), bias.bfloat16())


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Zero each number with probability `rate` and divide the others by `1 - rate`.

    The random bits of four numbers are drawn at once from torch's generator; a seed determines them.

    Args:
        x: Tensor of any shape.
        rate: Probability, 0 to 1.
        training: Whether to apply dropout; otherwise `x` is returned.

    Returns:
        A tensor of the same shape.
    """
    if not training or not rate:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int, rate: float = 0.0) -> Tensor:
    """Compute softmax attention per head. torch's CPU version with dropout copies its inputs four times.

    Args:
        q: (b, m, w) queries.
        k: (b, n, w) keys.
        v: (b, n, w) values.
        mask: (b, n) bool, True for a row that may be attended to; at least one per item.
        heads: Number of heads; must divide w.
        rate: Dropout rate of the attention weights.

    Returns:
        (b, m, w).
    """
    b, w = q.shape[0], q.shape[-1]
    if q.device.type != "cpu" or not rate or torch.compiler.is_compiling():
        q, k, v = (part.view(b, -1, heads, w // heads).transpose(1, 2) for part in (q, k, v))  # (b, h, n, w/h)
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], dropout_p=rate)
        return values.transpose(1, 2).flatten(2)
    q, k, v = (part.view(b, -1, heads, w // heads).transpose(1, 2).flatten(0, 1) for part in (q, k, v))  # (b h, n, w/h)
    scores = torch.bmm(q, k.transpose(1, 2)).float() * (w // heads) ** -0.5  # (b h, m, n)
    hidden = ~mask.repeat_interleave(heads, dim=0)[:, None]  # (b h, 1, n)
    weights = dropout(scores.masked_fill(hidden, float("-inf")).softmax(dim=-1), rate).to(v.dtype)
    return torch.bmm(weights, v).view(b, heads, -1, w // heads).transpose(1, 2).flatten(2)


class _SumOfSortedRows(torch.autograd.Function):
    """The sum of sorted rows in float32, sorted by numpy, with vector instructions where the CPU has them.

    The sorted rows have no gradient of their own: that of x is a product of two vectors per item, in another order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        columns = np.negative(x.detach().numpy().transpose(0, 2, 1), order="C")  # (b, w, n); numpy sorts ascending
        np.copyto(columns, np.finfo(np.float32).max, where=~mask.numpy()[:, None])
        order = None
        if any(ctx.needs_input_grad):
            order = torch.from_numpy(columns.argsort(axis=-1))
            ordered = torch.from_numpy(columns).gather(-1, order)
        else:
            columns.sort(axis=-1)
            ordered = torch.from_numpy(columns)
        ctx.save_for_backward(mask, weights, order, ordered)
        return torch.bmm(ordered, weights[..., None])[..., 0].neg_()  # (b, w)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        mask, weights, order, ordered = ctx.saved_tensors
        columns = grad[:, :, None] * weights[:, None]  # (b, w, n)
        grad_x = torch.empty_like(columns).scatter_(-1, order, columns).transpose(1, 2)
        grad_weights = -torch.bmm(grad[:, None], ordered)[:, 0]  # (b, n)
        return grad_x, None, grad_weights.masked_fill(~_leading_rows(mask), 0.0)


def _leading_rows(mask: Tensor) -> Tensor:
    """Move the real rows of each item to the front: (b, n) bool -> (b, n) bool."""
    return torch.arange(mask.shape[1], device=mask.device) < mask.sum(dim=1, keepdim=True)


def sum_sorted_rows(x: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Sort the values of each feature over the real rows, the largest first, and sum them with weights.

    Args:
        x: (b, n, w) without NaN. Of equal values, any may have the gradient of the first.
        mask: (b, n) bool, True for a real row.
        weights: (b, n): the weight of each position in the order; 0 from the number of real rows on.

    Returns:
        (b, w).
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if x.device.type == "cpu" and x.dtype == weights.dtype == torch.float32 and not is_traced:
        return _SumOfSortedRows.apply(x, mask, weights)
    ordered = x.masked_fill(~mask[..., None], torch.finfo(x.dtype).min).sort(dim=1, descending=True).values
    ordered = ordered.masked_fill(~_leading_rows(mask)[..., None], 0.0)  # (b, n, w)
    return torch.einsum("bn,bnw->bw", weights, ordered)


class Linear(nn.Linear):
    """nn.Linear that uses `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., d) -> (..., e)."""
        return linear(x, self.weight, self.bias)


class Dropout(nn.Dropout):
    """nn.Dropout that uses `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the dropout in training mode; the shape stays."""
        return dropout(x, self.p, self.training)
