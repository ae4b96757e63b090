"""A TERN and the text encoder before it, trained together: captions come as token ids, not as stored features."""

from __future__ import annotations

from torch import Tensor, nn


class TernWithTextEncoder(nn.Module):
    """What `tern.model` gives, with token ids where that takes features.

    Args:
        tern: a model of (b, l, d) wordpiece features
        text: (ids (b, l) int64, mask (b, l) bool) -> (b, l, d)
    """

    token_field = "token_ids"

    def __init__(self, tern: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.tern, self.text = tern, text
        self.config, self.region_dim, self.token_dim = tern.config, tern.region_dim, tern.token_dim

    def embed_images(
        self, features: Tensor, boxes: Tensor, sizes: Tensor, mask: Tensor,
        scores: Tensor | None = None, counts: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As the model within: (b, e)"""
        return self.tern.embed_images(features, boxes, sizes, mask, scores, counts)

    def embed_captions(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (b, l) int64, mask (b, l) bool -> (b, e)"""
        return self.tern.embed_captions(self.text(ids, mask), mask)
