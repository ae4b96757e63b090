"""TERN as its authors wrote it: a 2048-wide visual stack, a box MLP, a zero region as [CLS], two shared layers.

Messina et al., "Transformer Reasoning Network for Image-Text Matching and Retrieval" (2020), and the code of
mesnico/TERN, less two layers of it that are computed and never used. Equal weights give equal outputs.

Shapes: b items, r regions, l wordpieces, n rows of either kind, d features as extracted,
w width of a stack, h heads, e embedding. A mask is (b, n) bool, True where a row is real.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.cpu_ops import Dropout, Linear, attention, linear
from tern.networks.layers import box_features


class PaperLayer(nn.Module):
    """A transformer layer with the arithmetic of nn.TransformerEncoderLayer: ReLU after the sum, or GELU before it.

    Args:
        pre_norm: normalize before each branch, with GELU (True), or after each sum, with ReLU (False)
    """

    def __init__(self, width: int, heads: int, ff: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.rate, self.pre_norm = heads, dropout, pre_norm
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        middle = nn.GELU() if pre_norm else nn.ReLU()
        self.feed = nn.Sequential(Linear(width, ff), middle, Dropout(dropout), Linear(ff, width))
        self.norm1, self.norm2, self.drop = nn.LayerNorm(width), nn.LayerNorm(width), Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)  # as nn.MultiheadAttention starts
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor, rows: slice = slice(None)) -> Tensor:
        """x (b, n, w), mask (b, n) -> (b, n, w), or only those `rows` of it, at the price of those"""
        if self.pre_norm:
            x = x[:, rows] + self.drop(self.attend(self.norm1(x), mask, rows))
            return x + self.drop(self.feed(self.norm2(x)))
        x = self.norm1(x[:, rows] + self.drop(self.attend(x, mask, rows)))
        return self.norm2(x + self.drop(self.feed(x)))

    def attend(self, x: Tensor, mask: Tensor, rows: slice) -> Tensor:
        """x (b, n, w), mask (b, n) -> what `rows` see; padded rows are never looked at"""
        w = x.shape[-1]
        weight, bias = self.qkv.weight.split([w, 2 * w]), self.qkv.bias.split([w, 2 * w])
        q = linear(x[:, rows], weight[0], bias[0])  # (b, n, w)
        k, v = linear(x, weight[1], bias[1]).chunk(2, dim=-1)
        rate = self.rate if self.training else 0.0
        return self.out(attention(q, k, v, mask, self.heads, rate))  # (b, n, w)


def make_identical_layers(layers: int, *shape: int | float) -> nn.ModuleList:
    """Layers of one shape that all start from the same weights, as those of nn.TransformerEncoder do."""
    first = PaperLayer(*shape)
    return nn.ModuleList(copy.deepcopy(first) for _ in range(layers))


class PaperTern(nn.Module):
    """The authors' network, without BERT: its features come from a store, or from one that is fine-tuned beside it.

    Args:
        config: `width`, `visual_layers`, `shared_layers`, `heads`, `ff`, `dropout` and `embed_dim` are read
        region_dim: d of the region features
        token_dim: d of the wordpiece features
    """

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.region_dim, self.token_dim = config, region_dim, token_dim
        w, e, rest = config.width, config.embed_dim, (config.heads, config.feedforward_dim, config.dropout)
        self.box_proj = nn.Sequential(Linear(region_dim + 5, w), nn.ReLU(), Linear(w, w))
        self.visual = make_identical_layers(config.visual_layers, w, *rest)
        self.image_proj, self.caption_proj = Linear(w, e), Linear(token_dim, e)
        self.shared = make_identical_layers(config.shared_layers, e, *rest)

    def embed_images(
        self, features: Tensor, boxes: Tensor, sizes: Tensor, mask: Tensor,
        scores: Tensor | None = None, counts: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Unit vectors of images.

        Args:
            features: (b, r, d) region features
            boxes: (b, r, 4) x1 y1 x2 y2 in pixels
            sizes: (b, 2) width and height of the pictures in pixels
            mask: (b, r) bool, True for a real region

        Returns: (b, e), each of length 1
        """
        x = torch.cat([features, box_features(boxes, sizes).to(features.dtype)], dim=-1)  # (b, r, d + 5)
        x = self.box_proj(F.pad(x, (0, 0, 1, 0)))  # (b, 1 + r, w): row 0 is a region of zeros, at a box of zeros
        mask = F.pad(mask, (1, 0), value=True)  # (b, 1 + r)
        for layer in self.visual:
            x = layer(x, mask)
        return self._finish(self.image_proj(x), mask)

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors of captions.

        Args:
            features: (b, l, d) wordpiece features, row 0 that of [CLS]
            mask: (b, l) bool, True for a real wordpiece; at least the first of each caption

        Returns: (b, e), each of length 1
        """
        return self._finish(self.caption_proj(features), mask)

    def _finish(self, x: Tensor, mask: Tensor) -> Tensor:
        """The shared layers and row 0 of what they give: x (b, n, e), mask (b, n) -> (b, e)"""
        for number, layer in enumerate(self.shared, start=1):
            # nothing reads the other rows of the last layer
            x = layer(x, mask, slice(0, 1) if number == len(self.shared) else slice(None))
        return F.normalize(x[:, 0].float(), dim=-1, eps=1e-8)  # (b, e)
