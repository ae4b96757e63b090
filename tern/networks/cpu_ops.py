"""Three operations that torch runs slowly on a CPU in bfloat16, computed with fewer passes over memory.

Elsewhere (on a GPU, in another dtype, in a traced graph) torch's own operations run. The arithmetic is the same.
"""

from __future__ import annotations

from typing import Any

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
