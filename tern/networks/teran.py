"""The network of TERAN: that of the TERN authors up to the last layers, and one row vector per region and per word.

Messina et al., "Fine-grained Visual Textual Alignment for Cross-Modal Retrieval using Transformer Encoders" (2021), and
the code of mesnico/TERAN. Only its checkpoints are used: it is not trained here.

Shapes: b items, r regions, l tokens, n rows (with [CLS]), d features as extracted, e embedding. A mask is (b, n) bool,
True for a real row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern.config import ModelConfig
from tern.networks.alignment import Encoding, RowBatch
from tern.networks.inputs import ImageBatch
from tern.networks.paper import PaperTern, make_identical_layers


class Teran(PaperTern):
    """The network of the authors without BERT.

    An alignment score is a sum over words, over regions, or over both, of the cosine of the best partner. It is a sum,
    not a mean, so weights do not add up to 1: each word has `row_weights[1]` and each region `row_weights[0]`, one of
    which may be 0. They are constants of a checkpoint, and keep scores of usual captions below 1.

    Args:
        config: As for `PaperTern`; in addition `text_layers`, the layers of each modality after the map to e numbers,
            and `pooling`: `cls`, or `mean` for a training that gave [CLS] no loss.
        region_dim: Features per region, d.
        token_dim: Features per token, d.
    """

    row_weights: Tensor

    def __init__(self, config: ModelConfig, region_dim: int, token_dim: int) -> None:
        super().__init__(config, region_dim, token_dim)
        shape = config.embed_dim, config.heads, config.feedforward_dim, config.dropout
        self.image_layers = make_identical_layers(config.text_layers, *shape)
        self.caption_layers = make_identical_layers(config.text_layers, *shape)
        self.register_buffer("row_weights", torch.zeros(2))

    def embed_images(self, batch: ImageBatch) -> Tensor:
        """Compute unit vectors of images: (b, e)."""
        return self.encode_images(batch).vectors

    def embed_captions(self, features: Tensor, mask: Tensor) -> Tensor:
        """Compute unit vectors of captions as `PaperTern` does: (b, e)."""
        return self.encode_captions(features, mask).vectors

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """Compute unit vectors of images, (b, e), and row vectors of regions, (b, r, e)."""
        rows = self._encode_rows(*self.project_regions(batch), self.image_layers)  # (b, 1 + r, e)
        regions = rows[:, 1:]
        weights = self.row_weights[0] * batch.mask
        return Encoding(self._pool(rows, regions, batch.mask), RowBatch(regions, weights, batch.mask))

    def encode_captions(self, features: Tensor, mask: Tensor) -> Encoding:
        """Compute unit vectors of captions, (b, e), and row vectors of tokens, (b, l, e).

        A token that is not a word gets zeros and the weight 0. Its cosines are 0, as those of the padding are in the
        code of the authors, so the best word of a region has a cosine of at least 0.
        """
        rows, words = self._encode_rows(self.caption_proj(features), mask, self.caption_layers), find_words(mask)
        word_rows = rows * words[..., None]  # (b, l, e)
        weights = self.row_weights[1] * words
        return Encoding(self._pool(rows, word_rows, words), RowBatch(word_rows, weights, mask))

    def _encode_rows(self, x: Tensor, mask: Tensor, layers: nn.ModuleList) -> Tensor:
        """Apply the last layers: x (b, n, e), mask (b, n) -> unit vectors (b, n, e)."""
        for layer in (*layers, *self.shared):
            x = layer(x, mask)
        return F.normalize(x.float(), dim=-1, eps=1e-8)

    def _pool(self, rows: Tensor, parts: Tensor, mask: Tensor) -> Tensor:
        """Return the vectors of items, (b, e): [CLS] of (b, n, e) rows, or the direction of the mean of the parts."""
        pooled = rows[:, 0] if self.config.pooling == "cls" else (parts * mask[..., None]).sum(dim=1)
        return F.normalize(pooled, dim=-1, eps=1e-8)


def find_words(mask: Tensor) -> Tensor:
    """Return (b, l) bool, True for the tokens that an alignment score adds up; at least one per caption.

    The authors leave out [CLS] and the last two tokens: [SEP], and the full stop that ends their captions. A caption of
    one token would have no word, and keeps it.
    """
    is_first = torch.arange(mask.shape[1], device=mask.device) == 0  # (l,)
    words = F.pad(mask[:, 2:], (0, 2)) & ~is_first
    inner = F.pad(mask[:, 1:], (0, 1)) & ~is_first
    words = words | (inner & ~words.any(dim=1, keepdim=True))
    return words | (mask & ~words.any(dim=1, keepdim=True))
