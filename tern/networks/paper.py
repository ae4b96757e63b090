"""The network of the TERN authors: visual layers, a box MLP, a zero region as [CLS], and shared layers.

Messina et al., "Transformer Reasoning Network for Image-Text Matching and Retrieval" (2020), and the code of
mesnico/TERN without two layers of it whose outputs are never used. Equal weights give equal outputs.

Shapes: b items, r regions, l tokens, n rows (regions or tokens), d features as extracted, w width of the layers, h
    heads,
e embedding. A mask is (b, n) bool, True for a real row.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.cpu_ops import Dropout, Linear, attention, linear
from tern.networks.inputs import ImageBatch
from tern.networks.layers import box_features


class PaperLayer(nn.Module):
    """A transformer layer with the arithmetic of nn.TransformerEncoderLayer.

    Args:
        width: Features per row.
        heads: Attention heads.
        ff: Features of the hidden layer of the feed-forward network.
        dropout: Dropout rate.
        pre_norm: Whether to normalize before each branch, with GELU; else after each sum, with ReLU.
    """

    def __init__(self, width: int, heads: int, ff: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.rate, self.pre_norm = heads, dropout, pre_norm
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        activation = nn.GELU() if pre_norm else nn.ReLU()
        self.feed = nn.Sequential(Linear(width, ff), activation, Dropout(dropout), Linear(ff, width))
        self.norm1, self.norm2, self.drop = nn.LayerNorm(width), nn.LayerNorm(width), Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)  # the initialization of nn.MultiheadAttention
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor, rows: slice = slice(None)) -> Tensor:
        """Apply the layer.

        Args:
            x: (b, n, w).
            mask: (b, n) bool.
            rows: Rows to compute; the cost is that of these rows.

        Returns:
            (b, n, w), or only the selected rows of it.
        """
        if self.pre_norm:
            x = x[:, rows] + self.drop(self.attend(self.norm1(x), mask, rows))
            return x + self.drop(self.feed(self.norm2(x)))
        x = self.norm1(x[:, rows] + self.drop(self.attend(x, mask, rows)))
        return self.norm2(x + self.drop(self.feed(x)))

    def attend(self, x: Tensor, mask: Tensor, rows: slice) -> Tensor:
        """Attend from the selected rows to the real rows.

        Args:
            x: (b, n, w).
            mask: (b, n) bool.
            rows: Rows whose output is computed.

        Returns:
            (b, selected rows, w).
        """
        w = x.shape[-1]
        weight, bias = self.qkv.weight.split([w, 2 * w]), self.qkv.bias.split([w, 2 * w])
        q = linear(x[:, rows], weight[0], bias[0])  # (b, n, w)
        k, v = linear(x, weight[1], bias[1]).chunk(2, dim=-1)
        rate = self.rate if self.training else 0.0
        return self.out(attention(q, k, v, mask, self.heads, rate))  # (b, n, w)


def make_identical_layers(num_layers: int, width: int, heads: int, ff: int, dropout: float) -> nn.ModuleList:
    """Build layers that all start from the same weights, like those of nn.TransformerEncoder.

    Args:
        num_layers: Number of layers.
        width: Features per row.
        heads: Attention heads.
        ff: Features of the hidden layer of each feed-forward network.
        dropout: Dropout rate, 0 to 1.
    """
    first = PaperLayer(width, heads, ff, dropout)
    return nn.ModuleList(copy.deepcopy(first) for _ in range(num_layers))


class PaperTern(nn.Module):
    """The network of the authors without BERT.

    Token features come from a store or from a `TernWithTextEncoder`.

    Args:
        config: Of the shape, `width`, `visual_layers`, `shared_layers`, `heads`, `feedforward_dim`, `dropout` and
            `embed_dim` are read.
        region_dim: Features per region, d.
        token_dim: Features per token, d.
    """

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.region_dim, self.token_dim = config, region_dim, token_dim
        w, e, rest = config.width, config.embed_dim, (config.heads, config.feedforward_dim, config.dropout)
        self.box_proj = nn.Sequential(Linear(region_dim + 5, w), nn.ReLU(), Linear(w, w))
        self.visual = make_identical_layers(config.visual_layers, w, *rest)
        self.image_proj, self.caption_proj = Linear(w, e), Linear(token_dim, e)
        self.shared = make_identical_layers(config.shared_layers, e, *rest)

    def embed_images(self, batch: ImageBatch) -> Tensor:
        """Compute unit vectors of images: (b, e). Scores and counts are ignored."""
        return self._pool_and_project(*self.project_regions(batch))

    def project_regions(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Apply the visual layers and the map to e numbers: (b, 1 + r, e), [CLS] first, and its mask (b, 1 + r)."""
        features = batch.features
        x = torch.cat([features, box_features(batch.boxes, batch.sizes).to(features.dtype)], dim=-1)  # (b, r, d + 5)
        x = self.box_proj(F.pad(x, (0, 0, 1, 0)))  # (b, 1 + r, w): row 0 has features and box of zeros
        mask = F.pad(batch.mask, (1, 0), value=True)  # (b, 1 + r)
        for layer in self.visual:
            x = layer(x, mask)
        return self.image_proj(x), mask  # (b, 1 + r, e)

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Compute unit vectors of captions.

        Args:
            features: (b, l, d) token features; row 0 is [CLS].
            mask: (b, l) bool, True for a real token; at least the first of each caption.

        Returns:
            (b, e).
        """
        return self._pool_and_project(self.caption_proj(features), mask)

    def _pool_and_project(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply the shared layers and take row 0: x (b, n, e), mask (b, n) -> (b, e)."""
        for number, layer in enumerate(self.shared, start=1):
            # The other rows of the last layer are unused.
            x = layer(x, mask, slice(0, 1) if number == len(self.shared) else slice(None))
        return F.normalize(x[:, 0].float(), dim=-1, eps=1e-8)  # (b, e)
