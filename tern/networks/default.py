"""TERN: regions and words, through stacks of their own and a shared one, into one space.

Messina et al., "Transformer Reasoning Network for Image-Text Matching and Retrieval" (2020). The
order differs from theirs where the field has moved on: features are projected before reasoning,
layers are pre-norm, and pooling is GPO (Chen et al., VSE-infinity, 2021) unless the config says else.

Shapes: b items, r regions, l wordpieces, n rows of either kind, d features as extracted,
w width of the stacks, h heads, e embedding. A mask is (b, n) bool, True where a row is real.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.layers import FeatureDropout, box_features, pool_rows, sinusoidal_positions
from tern.networks.region_counts import RegionCounts, count_similar_regions
from tern.networks.shortcut import CaptionShortcut, ImageShortcut


class TransformerLayer(nn.Module):
    """One transformer layer: attention among the real rows, then a feed-forward part."""

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
        """x (b, n, w), mask (b, n) -> (b, n, w)"""
        if self.pre_norm:
            x = x + self.drop(self.attend(self.norm1(x), mask))
            return x + self.drop(self.feed(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attend(x, mask)))
        return self.norm2(x + self.drop(self.feed(x)))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (b, n, w), mask (b, n) -> (b, n, w); padded rows are never looked at"""
        b, n, w = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)  # (b, h, n, w/h)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])  # (b, h, n, w/h)
        return self.out(x.transpose(1, 2).reshape(b, n, w))  # (b, n, w)


class GPO(nn.Module):
    """Generalised pooling: each feature's values, sorted, are averaged with learnt weights.

    The weights depend on the position in the order and on the number of rows, so that mean, max
    and k-max are special cases (VSE-infinity, section 3.2: sines of positions, a BiGRU, a softmax).
    """

    def __init__(self, size: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.size, self.temperature = size, temperature
        self.gru = nn.GRU(size, size, batch_first=True, bidirectional=True)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (b, n, w), mask (b, n) -> (b, w)"""
        last = torch.finfo(x.dtype).min
        ordered = x.masked_fill(~mask[..., None], last).sort(dim=1, descending=True).values  # (b, n, w)
        ordered = ordered.masked_fill(ordered == last, 0.0)
        lengths, which = mask.sum(1).unique(return_inverse=True)  # few lengths, many items
        weights = self.weights(lengths, x.shape[1])[which]  # (b, n)
        return torch.einsum("bn,bnw->bw", weights.to(x.dtype), ordered)

    def weights(self, lengths: Tensor, n: int) -> Tensor:
        """lengths (k,) rows -> (k, n) weights, each row adding up to 1 over its own length"""
        codes = sinusoidal_positions(n, self.size, lengths.device).expand(len(lengths), -1, -1)  # (k, n, size)
        packed = nn.utils.rnn.pack_padded_sequence(codes, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=n)
        forth, back = states.chunk(2, dim=-1)  # (k, n, size) twice
        scores = self.score((forth + back) / 2)[..., 0] / self.temperature  # (k, n)
        real = torch.arange(n, device=lengths.device) < lengths[:, None]  # (k, n)
        return scores.masked_fill(~real, float("-inf")).softmax(dim=1)


class Tern(nn.Module):
    """Two encoders that meet in shared layers.

    Args:
        config: the shape of the network
        region_dim: d of the region features
        token_dim: d of the wordpiece features
    """

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.region_dim, self.token_dim = config, region_dim, token_dim
        self.region_proj = self._entrance(region_dim)
        self.token_proj = self._entrance(token_dim)
        self.box_proj = nn.Linear(5, config.width) if config.box_embedding == "add" else None
        self.image_cls = nn.Parameter(torch.zeros(config.width)) if config.pooling == "cls" else None
        self.counts = (
            RegionCounts(region_dim, config.width, config.shortcut * config.embed_dim)
            if config.count_similar_regions
            else None
        )
        self.visual = nn.ModuleList(TransformerLayer(config) for _ in range(config.visual_layers))
        self.text = nn.ModuleList(TransformerLayer(config) for _ in range(config.text_layers))
        self.shared = nn.ModuleList(TransformerLayer(config) for _ in range(config.shared_layers))
        self.norm = nn.LayerNorm(config.width)
        self.image_pool, self.text_pool = (GPO() if config.pooling == "gpo" else None for _ in range(2))
        self.image_out = nn.Linear(config.width, config.embed_dim)
        self.text_out = nn.Linear(config.width, config.embed_dim)
        self.image_shortcut = self.caption_shortcut = None
        if config.shortcut:
            self.image_shortcut = ImageShortcut(region_dim, config.embed_dim, config.shortcut_dropout)
            self.caption_shortcut = CaptionShortcut(token_dim, config.embed_dim)
            for out in (self.image_out, self.text_out):  # reasoning starts as nothing and has to earn its part
                nn.init.zeros_(out.weight)
                nn.init.zeros_(out.bias)

    def _entrance(self, dim: int) -> nn.Sequential:
        """Extractors differ in scale by orders of magnitude, hence the norm on the raw features."""
        return nn.Sequential(
            nn.LayerNorm(dim, elementwise_affine=False),
            FeatureDropout(self.config.input_dropout),
            nn.Linear(dim, self.config.width),
        )

    def embed_images(
        self, features: Tensor, boxes: Tensor, sizes: Tensor, mask: Tensor,
        scores: Tensor | None = None, counts: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Unit vectors of images.

        Args:
            features: (b, r, d) region features
            boxes: (b, r, 4) x1 y1 x2 y2 in pixels
            sizes: (b, 2) width and height of the pictures in pixels
            mask: (b, r) bool, True for a real region; at least one an image
            scores: (b, r) of the detector, 0 to 1; not given: all alike
            counts: (b, r) of regions alike, where some were left out; not given: those that are here are counted

        Returns: (b, e), each of length 1
        """
        direct = self.image_shortcut(features, mask, scores) if self.image_shortcut is not None else 0.0
        x = self.region_proj(features)  # (b, r, w)
        if self.box_proj is not None:
            x = x + self.box_proj(box_features(boxes, sizes))
        if self.counts is not None:
            counts = (
                count_similar_regions(features, mask, scores, self.counts.feature_mean) if counts is None else counts
            )
            each, whole = self.counts(counts, mask, scores)  # (b, r, w), (b, e)
            x, direct = x + each, direct + whole
        if self.image_cls is not None:
            x = torch.cat([self.image_cls.expand(len(x), 1, -1), x], dim=1)  # (b, 1 + r, w)
            mask = F.pad(mask, (1, 0), value=True)  # (b, 1 + r)
        for block in self.visual:
            x = block(x, mask)
        return self._finish(x, mask, self.image_pool, self.image_out, direct)

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors of captions.

        Args:
            features: (b, l, d) wordpiece features; row 0 is [CLS], which `cls` pooling relies on
            mask: (b, l) bool, True for a real wordpiece; at least one a caption

        Returns: (b, e), each of length 1
        """
        x = self.token_proj(features)  # (b, l, w)
        for block in self.text:
            x = block(x, mask)
        direct = self.caption_shortcut(features, mask) if self.caption_shortcut is not None else 0.0
        return self._finish(x, mask, self.text_pool, self.text_out, direct)

    def _finish(self, x: Tensor, mask: Tensor, gpo: GPO | None, out: nn.Linear, direct: Tensor | float) -> Tensor:
        """The road that both kinds share: x (b, n, w), mask (b, n), direct (b, e) or 0 -> (b, e)"""
        for block in self.shared:
            x = block(x, mask)
        x = self.norm(x)
        x = gpo(x, mask) if gpo else pool_rows(x, mask, self.config.pooling)  # (b, w)
        reasoned = out(x) if self.image_shortcut is None else self.config.transformer_scale * out(x)
        return F.normalize((reasoned + direct).float(), dim=-1, eps=1e-8)  # (b, e)
