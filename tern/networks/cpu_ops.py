"""Three operations that torch does slowly on a CPU in bfloat16, with fewer passes over memory: the same arithmetic.

Elsewhere (a GPU, another type, a traced graph) they are torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16  # a draw of dropout is one of these: a rate of 0.1 is 0.100006


class _LinearWithContiguousGrad(torch.autograd.Function):
    """F.linear, whose gradient by the weight is a product of two matrices that lie in the order they are read in.

    torch hands the library a transposed view of the gradient, which on a CPU costs half as much again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # (n, out)
        back = grad @ weight if ctx.needs_input_grad[0] else None
        return back, rows.t().contiguous() @ x.flatten(0, -2), rows.sum(dim=0)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (..., d), weight (e, d), bias (e,) -> (..., e), under autocast as F.linear is"""
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if x.device.type != "cpu" or not half or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    return _LinearWithContiguousGrad.apply(x.bfloat16(), weight.bfloat16(), bias.bfloat16())


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """x of any shape -> the same, each number 0 with probability `rate`, else divided by what is left.

    The bits are drawn four numbers at a time from torch's generator, so that a seed gives the same ones.
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
    """Softmax attention, head by head; torch's own for a CPU that drops weights makes four copies of what it is given.

    Args:
        q: (b, m, w) queries
        k: (b, n, w) keys
        v: (b, n, w) values
        mask: (b, n) bool, True for a row that may be seen; at least one an item
        heads: that share w among them
        rate: probability of a weight to be left out

    Returns: (b, m, w)
    """
    b, w = len(q), q.shape[-1]
    if q.device.type != "cpu" or not rate or torch.compiler.is_compiling():
        q, k, v = (part.view(b, -1, heads, w // heads).transpose(1, 2) for part in (q, k, v))  # (b, h, n, w/h)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], dropout_p=rate)
        return seen.transpose(1, 2).flatten(2)
    q, k, v = (part.view(b, -1, heads, w // heads).transpose(1, 2).flatten(0, 1) for part in (q, k, v))  # (b h, n, w/h)
    scores = torch.bmm(q, k.transpose(1, 2)).float() * (w // heads) ** -0.5  # (b h, m, n)
    hidden = ~mask.repeat_interleave(heads, dim=0)[:, None]  # (b h, 1, n)
    weights = dropout(scores.masked_fill(hidden, float("-inf")).softmax(dim=-1), rate).to(v.dtype)
    return torch.bmm(weights, v).view(b, heads, -1, w // heads).transpose(1, 2).flatten(2)


class Linear(nn.Linear):
    """nn.Linear by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> (..., e)"""
        return linear(x, self.weight, self.bias)


class Dropout(nn.Dropout):
    """nn.Dropout by way of `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same"""
        return dropout(x, self.p, self.training)
