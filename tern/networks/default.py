"""The default network: regions and tokens pass through layers of their own and shared layers into one space.

Messina et al., "Transformer Reasoning Network for Image-Text Matching and Retrieval" (2020). Unlike the paper, features
are projected before the layers, layers normalize first, and pooling is GPO (Chen et al., VSE-infinity, 2021) unless the
configuration selects another. With `pooled_half`, the second half of a vector comes from the network of VSE-infinity:
two networks that err differently are better than a larger one of either kind (decision 058).

Shapes: b items, r regions, l tokens, n rows (regions or tokens), d features as extracted, w width of the layers, h
heads, e embedding. A mask is (b, n) bool, True for a real row.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.alignment import AlignmentHead, Encoding
from tern.networks.gpo import GPO
from tern.networks.inputs import ImageBatch
from tern.networks.layers import FeatureDropout, box_features, pool_rows
from tern.networks.region_counts import RegionCounts, count_similar_regions
from tern.networks.shortcut import CaptionShortcut, ImageShortcut
from tern.networks.vse_infinity import VseInfinity

HALF_LENGTH = 0.5**0.5  # of each half of a unit vector


class TransformerLayer(nn.Module):
    """A transformer layer: attention among the real rows, then a feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.pre_norm = config.heads, config.pre_norm
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.feed = nn.Sequential(
            nn.Linear(config.width, config.feedforward_dim), nn.GELU(), nn.Linear(config.feedforward_dim, config.width)
        )
        self.drop = FeatureDropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply the layer: x (b, n, w), mask (b, n) -> (b, n, w)."""
        if self.pre_norm:
            x = x + self.drop(self.attend(self.norm1(x), mask))
            return x + self.drop(self.feed(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attend(x, mask)))
        return self.norm2(x + self.drop(self.feed(x)))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend to the real rows: x (b, n, w), mask (b, n) -> (b, n, w)."""
        b, n, w = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)  # (b, h, n, w/h)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])  # (b, h, n, w/h)
        return self.out(x.transpose(1, 2).reshape(b, n, w))  # (b, n, w)


class Tern(nn.Module):
    """Two encoders that end in shared layers, plus a shortcut, and optionally a second half of the vector.

    Args:
        config: Shape of the network.
        region_dim: Features per region, d.
        token_dim: Features per token, d.
    """

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.region_dim, self.token_dim = config, region_dim, token_dim
        embed_dim = config.embed_dim // 2 if config.pooled_half else config.embed_dim
        self.region_proj = self._make_input_projection(region_dim)
        self.token_proj = self._make_input_projection(token_dim)
        self.box_proj = nn.Linear(5, config.width) if config.box_embedding == "add" else None
        self.image_cls = nn.Parameter(torch.zeros(config.width)) if config.pooling == "cls" else None
        self.counts = (
            RegionCounts(region_dim, config.width, config.shortcut * embed_dim)
            if config.count_similar_regions
            else None
        )
        self.visual = nn.ModuleList(TransformerLayer(config) for _ in range(config.visual_layers))
        self.text = nn.ModuleList(TransformerLayer(config) for _ in range(config.text_layers))
        self.shared = nn.ModuleList(TransformerLayer(config) for _ in range(config.shared_layers))
        self.norm = nn.LayerNorm(config.width)
        self.image_pool, self.text_pool = (GPO() if config.pooling == "gpo" else None for _ in range(2))
        self.image_out = nn.Linear(config.width, embed_dim)
        self.text_out = nn.Linear(config.width, embed_dim)
        self.image_shortcut = self.caption_shortcut = None
        if config.shortcut:
            self.image_shortcut = ImageShortcut(region_dim, embed_dim, config.shortcut_dropout)
            self.caption_shortcut = CaptionShortcut(token_dim, embed_dim)
            # Zero-initialized, so that training starts from the shortcut alone.
            for out in (self.image_out, self.text_out):
                nn.init.zeros_(out.weight)
                nn.init.zeros_(out.bias)
        self.pooled = None
        if config.pooled_half:
            pooled_config = config.model_copy(update={"width": embed_dim, "embed_dim": embed_dim})
            self.pooled = VseInfinity(pooled_config, region_dim, token_dim)
        self.image_rows = self.caption_rows = None
        if config.alignment_dim:
            shape = config.width, config.alignment_dim
            self.image_rows = AlignmentHead(region_dim, *shape, config.input_dropout)
            self.caption_rows = AlignmentHead(token_dim, *shape, config.token_dropout)

    def _make_input_projection(self, dim: int) -> nn.Sequential:
        # The features of extractors differ in scale by orders of magnitude; the norm removes that.
        return nn.Sequential(
            nn.LayerNorm(dim, elementwise_affine=False),
            FeatureDropout(self.config.input_dropout),
            nn.Linear(dim, self.config.width),
        )

    def embed_images(self, batch: ImageBatch) -> Tensor:
        """Compute unit vectors of images: (b, e)."""
        return self.encode_images(batch).vectors

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """Compute unit vectors of images (b, e), and row vectors (b, r, k) if the configuration has them."""
        features, mask, scores = batch.features, batch.mask, batch.scores
        linear: Tensor | float = 0.0
        if self.image_shortcut is not None:
            linear = self.image_shortcut(features, mask, scores)  # (b, e)
        x = self.region_proj(features)  # (b, r, w)
        if self.box_proj is not None:
            x = x + self.box_proj(box_features(batch.boxes, batch.sizes))
        if self.counts is not None:
            counts = batch.counts
            if counts is None:
                counts = count_similar_regions(features, mask, scores, self.counts.feature_mean)
            region_part, image_part = self.counts(counts, mask, scores)  # (b, r, w), (b, e)
            x, linear = x + region_part, linear + image_part
        if self.image_cls is not None:
            x = torch.cat([self.image_cls.expand(len(x), 1, -1), x], dim=1)  # (b, 1 + r, w)
            mask = F.pad(mask, (1, 0), value=True)  # (b, 1 + r)
        for block in self.visual:
            x = block(x, mask)
        x = self._apply_shared_layers(x, mask)
        vectors = self._pool_and_project(x, mask, self.image_pool, self.image_out, linear)
        if self.pooled is not None:
            normalized = replace(batch, features=self.region_proj[0](features))  # the layer norm before the layers
            vectors = join_halves(vectors, self.pooled.embed_images(normalized))
        if self.image_rows is None:
            return Encoding(vectors)
        num_regions = features.shape[1]  # a [CLS] row in front of them is no region
        return Encoding(vectors, self.image_rows(features, x[:, -num_regions:], batch.mask))

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Compute unit vectors of captions.

        Args:
            features: (b, l, d) token features; row 0 is [CLS], which the pooling `cls` requires.
            mask: (b, l) bool, True for a real token; at least one per caption.

        Returns:
            (b, e).
        """
        return self.encode_captions(features, mask).vectors

    def encode_captions(self, features: Tensor, mask: Tensor) -> Encoding:
        """Compute unit vectors of captions (b, e), and row vectors (b, l, k) if the configuration has them.

        The arguments are those of `embed_captions`.
        """
        x = self.token_proj(features)  # (b, l, w)
        for block in self.text:
            x = block(x, mask)
        linear = self.caption_shortcut(features, mask) if self.caption_shortcut is not None else 0.0
        x = self._apply_shared_layers(x, mask)
        vectors = self._pool_and_project(x, mask, self.text_pool, self.text_out, linear)
        if self.pooled is not None:
            vectors = join_halves(vectors, self.pooled.embed_captions(self.token_proj[0](features), mask))
        return Encoding(vectors, None if self.caption_rows is None else self.caption_rows(features, x, mask))

    def _apply_shared_layers(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply the layers that both modalities share, and the last norm: (b, n, w) -> (b, n, w)."""
        for block in self.shared:
            x = block(x, mask)
        normalized: Tensor = self.norm(x)
        return normalized

    def _pool_and_project(
        self, x: Tensor, mask: Tensor, gpo: GPO | None, out: nn.Linear, linear: Tensor | float
    ) -> Tensor:
        """Pool the rows and add the shortcut: x (b, n, w), mask (b, n), shortcut (b, e) or 0 -> (b, e)."""
        x = gpo(x, mask) if gpo else pool_rows(x, mask, self.config.pooling)  # (b, w)
        branch = out(x) if self.image_shortcut is None else self.config.transformer_scale * out(x)  # (b, e)
        return F.normalize((branch + linear).float(), dim=-1, eps=1e-8)  # (b, e)


def join_halves(first: Tensor, second: Tensor) -> Tensor:
    """Join unit vectors (b, e / 2) to unit vectors (b, e), whose cosines are the means of those of both halves."""
    return torch.cat([first, second], dim=1) * HALF_LENGTH
