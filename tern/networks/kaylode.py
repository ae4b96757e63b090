"""The 768-wide variant of seed/tern with its faults mended: padding takes part in nothing.

There the attention and the mean went over the padding too; a vector depended on its batch mates.

Shapes: b items, r regions, l wordpieces, n rows of either kind, d features as extracted,
w width, e embedding. A mask is (b, n) bool, True where a row is real.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.layers import box_features, pool_rows
from tern.networks.paper import PaperLayer


class KaylodeTern(nn.Module):
    """Regions through a pre-norm stack of their own, wordpieces through none, then a head for each kind.

    Args:
        config: `width`, `visual_layers`, `heads`, `ff`, `dropout` and `embed_dim` are read
        region_dim: d of the region features
        token_dim: d of the wordpiece features
    """

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.region_dim, self.token_dim = config, region_dim, token_dim
        w, e = config.width, config.embed_dim
        self.region_proj, self.box_proj = nn.Linear(region_dim, w), nn.Linear(5, w)
        self.image_cls = nn.Parameter(torch.zeros(2, w))  # of the features and of the place, which are added
        nn.init.xavier_uniform_(self.image_cls)
        shape = (w, config.heads, config.feedforward_dim, config.dropout, True)
        self.visual = nn.ModuleList(PaperLayer(*shape) for _ in range(config.visual_layers))
        self.norm = nn.LayerNorm(w)
        self.image_mid, self.image_out = nn.Linear(w, w), nn.Linear(w, e)
        self.caption_mid, self.caption_out = nn.Linear(token_dim, w), nn.Linear(w, e)

    def embed_images(
        self, features: Tensor, boxes: Tensor, sizes: Tensor, mask: Tensor,
        scores: Tensor | None = None, counts: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Unit vectors of images: features (b, r, d), boxes (b, r, 4) px, sizes (b, 2) px, mask (b, r) -> (b, e)"""
        x = self.region_proj(features) + self.box_proj(box_features(boxes, sizes))  # (b, r, w)
        x = torch.cat([self.image_cls.sum(0).to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # (b, 1 + r, w)
        mask = F.pad(mask, (1, 0), value=True)  # (b, 1 + r)
        for layer in self.visual:
            x = layer(x, mask)
        return self._finish(self.norm(x), mask, self.image_mid, self.image_out)

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors of captions: features (b, l, d), mask (b, l) -> (b, e)"""
        return self._finish(features, mask, self.caption_mid, self.caption_out)

    def _finish(self, x: Tensor, mask: Tensor, mid: nn.Linear, out: nn.Linear) -> Tensor:
        """Head and mean of the real rows: x (b, n, w), mask (b, n) -> (b, e)"""
        x = pool_rows(F.relu(mid(x)), mask, "mean")  # (b, w): the mean of `out` is `out` of the mean, n times cheaper
        return F.normalize(out(x).float(), dim=-1, eps=1e-8)  # (b, e)
