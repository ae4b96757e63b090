"""The network of VSE-infinity for region features: a linear map and an MLP per region, a linear map per token, and GPO.

Chen et al., "Learning the Best Pooling Strategy for Visual Semantic Embedding" (2021), and the code of
woodfrog/vse_infty (lib/encoders.py, `EncoderImageAggr` and `EncoderText` without BERT). There are no attention layers
and no boxes. In the authors' code, the batch norm of a training step also averages over padded regions.

Shapes: b items, r regions, l tokens, k real regions of a batch, d features as extracted, w width of the MLP, e
embedding. A mask is (b, n) bool, True for a real row.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.gpo import GPO
from tern.networks.inputs import ImageBatch


class VseInfinity(nn.Module):
    """Two towers that end in GPO.

    Args:
        config: Only `width` (of the MLP) and `embed_dim` are used.
        region_dim: Features per region, d.
        token_dim: Features per token, d.
    """

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.region_dim, self.token_dim = config, region_dim, token_dim
        w, e = config.width, config.embed_dim
        self.region_proj, self.token_proj = nn.Linear(region_dim, e), nn.Linear(token_dim, e)
        nn.init.xavier_uniform_(self.region_proj.weight)
        nn.init.zeros_(self.region_proj.bias)
        self.mlp_in, self.mlp_norm, self.mlp_out = nn.Linear(region_dim, w), nn.BatchNorm1d(w), nn.Linear(w, e)
        self.image_pool, self.text_pool = GPO(), GPO()

    def embed_images(self, batch: ImageBatch) -> Tensor:
        """Compute unit vectors of images: (b, e). Boxes, scores and counts are ignored."""
        features, mask = batch.features, batch.mask
        hidden = F.relu(self._normalize(self.mlp_in(features), mask))  # (b, r, w)
        x = self.region_proj(features) + self.mlp_out(hidden)  # (b, r, e)
        return F.normalize(self.image_pool(x, mask).float(), dim=-1, eps=1e-8)  # (b, e)

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Compute unit vectors of captions: features (b, l, d), mask (b, l) -> (b, e)."""
        x = self.token_proj(features)  # (b, l, e)
        return F.normalize(self.text_pool(x, mask).float(), dim=-1, eps=1e-8)  # (b, e)

    def _normalize(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply the batch norm, with statistics of the real rows in training: x (b, r, w), mask (b, r) -> (b, r, w)."""
        if not self.training:  # each row by itself
            return self.mlp_norm(x.flatten(0, 1)).view(x.shape)
        return x.masked_scatter(mask[..., None], self.mlp_norm(x[mask]))  # x[mask]: (k, w)
