"""The network of kaylode/tern, of width 768, with its padding errors corrected.

In kaylode/tern, attention and the mean include padded rows, so that a vector depends on the other items of its batch.

Shapes: b items, r regions, l tokens, n rows (regions or tokens), d features as extracted, w width, e embedding. A
mask is (b, n) bool, True for a real row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.inputs import ImageBatch
from tern.networks.layers import box_features, pool_rows
from tern.networks.paper import PaperLayer


class KaylodeTern(nn.Module):
    """Pre-norm layers for regions, none for tokens, and one head per modality.

    Args:
        config: Only `width`, `visual_layers`, `heads`, `feedforward_dim`, `dropout` and `embed_dim` are used.
        region_dim: Features per region, d.
        token_dim: Features per token, d.
    """

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.region_dim, self.token_dim = config, region_dim, token_dim
        w, e = config.width, config.embed_dim
        self.region_proj, self.box_proj = nn.Linear(region_dim, w), nn.Linear(5, w)
        self.image_cls = nn.Parameter(torch.zeros(2, w))  # two rows that are added: features and box
        nn.init.xavier_uniform_(self.image_cls)
        layer_args = (w, config.heads, config.feedforward_dim, config.dropout, True)
        self.visual = nn.ModuleList(PaperLayer(*layer_args) for _ in range(config.visual_layers))
        self.norm = nn.LayerNorm(w)
        self.image_mid, self.image_out = nn.Linear(w, w), nn.Linear(w, e)
        self.caption_mid, self.caption_out = nn.Linear(token_dim, w), nn.Linear(w, e)

    def embed_images(self, batch: ImageBatch) -> Tensor:
        """Compute unit vectors of images: (b, e). Scores and counts are ignored."""
        x = self.region_proj(batch.features) + self.box_proj(box_features(batch.boxes, batch.sizes))  # (b, r, w)
        x = torch.cat([self.image_cls.sum(0).to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)  # (b, 1 + r, w)
        mask = F.pad(batch.mask, (1, 0), value=True)  # (b, 1 + r)
        for layer in self.visual:
            x = layer(x, mask)
        return self._pool_and_project(self.norm(x), mask, self.image_mid, self.image_out)

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Compute unit vectors of captions: features (b, l, d), mask (b, l) -> (b, e)."""
        return self._pool_and_project(features, mask, self.caption_mid, self.caption_out)

    def _pool_and_project(self, x: Tensor, mask: Tensor, mid: nn.Linear, out: nn.Linear) -> Tensor:
        """Apply a head and average the real rows: x (b, n, w), mask (b, n) -> (b, e)."""
        # The mean of `out` over the rows equals `out` of the mean, which is n times cheaper.
        x = pool_rows(F.relu(mid(x)), mask, "mean")  # (b, w)
        return F.normalize(out(x).float(), dim=-1, eps=1e-8)  # (b, e)
