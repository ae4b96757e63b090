"""A network together with the text encoder in front of it, for training with `fine_tune`: captions are token ids."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tern.networks.alignment import Encoding, encode_captions, encode_images
from tern.networks.inputs import ImageBatch


class TernWithTextEncoder(nn.Module):
    """A network with the methods of `Tern` that reads token ids instead of token features.

    Args:
        tern: Network that reads (b, l, d) token features.
        text: Text encoder: (ids (b, l) int64, mask (b, l) bool) -> (b, l, d).
    """

    token_field = "token_ids"

    def __init__(self, tern: Any, text: nn.Module) -> None:
        super().__init__()
        self.tern, self.text = tern, text
        self.config, self.region_dim, self.token_dim = tern.config, tern.region_dim, tern.token_dim

    def embed_images(self, batch: ImageBatch) -> Tensor:
        """Compute unit vectors of images as the inner network does: (b, e)."""
        return self.tern.embed_images(batch)

    def embed_captions(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute unit vectors of captions: ids (b, l) int64, mask (b, l) bool -> (b, e)."""
        return self.tern.embed_captions(self.text(ids, mask), mask)

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """Compute unit vectors and row vectors of images as the inner network does."""
        return encode_images(self.tern, batch)

    def encode_captions(self, ids: Tensor, mask: Tensor) -> Encoding:
        """Compute unit vectors and row vectors of captions: ids (b, l) int64, mask (b, l) bool."""
        return encode_captions(self.tern, self.text(ids, mask), mask)
