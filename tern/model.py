"""TERN: regions and words, through stacks of their own and a shared one, into one space.

Messina et al., "Transformer Reasoning Network for Image-Text Matching and Retrieval" (2020). The
order differs from theirs where the field has moved on: features are projected before reasoning,
layers are pre-norm, and pooling is GPO (Chen et al., VSE-infinity, 2021) unless the config says else.

Shapes: b items, r regions, l wordpieces, n rows of either kind, d features as extracted,
w width of the stacks, h heads, e embedding. A mask is (b, n) bool, True where a row is real.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from tern.counts import RegionCounts, count_similar_regions
from tern.direct import CaptionShortcut, ImageShortcut, masked_mean

ARCHITECTURE_SETTINGS: dict[str, dict[str, object]] = {  # what the other networks cannot be asked to change
    "default": {},
    "paper": {
        "text_layers": 0, "input_dropout": 0.0, "pooling": "cls", "box_embedding": "add", "pre_norm": False, "shortcut": False,
        "count_similar_regions": False,
    },
    "kaylode": {
        "text_layers": 0, "shared_layers": 0, "input_dropout": 0.0, "pooling": "mean", "box_embedding": "add",
        "pre_norm": True, "shortcut": False, "count_similar_regions": False,
    },
}  # fmt: skip


class ModelConfig(BaseModel):
    """The shape of the network. The two feature sizes are not here: the stores know them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["default", "paper", "kaylode"] = "default"
    """`modern`: the network of this file; `tern`: the authors' (tern/authors.py); `seed`: seed's (tern/seed.py)"""
    width: int = Field(256, ge=8)
    """features of a row inside the stacks"""
    heads: int = Field(4, ge=1)
    """attention heads; must divide `width`"""
    visual_layers: int = Field(1, ge=0)
    """layers for regions alone"""
    text_layers: int = Field(0, ge=0)
    """layers for wordpieces alone"""
    shared_layers: int = Field(1, ge=0)
    """layers that both kinds of row go through"""
    feedforward_dim: int = Field(512, ge=8)
    """features of the hidden layer of each feed-forward part"""
    dropout: float = Field(0.2, ge=0, lt=1)
    """fraction of the features of each residual branch that are zeroed, the same ones in all rows of an item"""
    input_dropout: float = Field(0.4, ge=0, lt=1)
    """fraction of the extracted features that are zeroed, the same ones in all rows of an item"""
    embed_dim: int = Field(512, ge=8)
    """features of the final vector"""
    pooling: Literal["gpo", "mean", "max", "cls"] = "gpo"
    box_embedding: Literal["add", "none"] = "add"
    """`add`: a projection of the box is added to its region; `none`: boxes are ignored"""
    pre_norm: bool = True
    """normalise before each branch (True) or after each sum (False, as the paper does)"""
    shortcut: bool = True
    """add a linear map of the pooled features to what the layers make of them (tern/direct.py)"""
    transformer_scale: float = Field(0.3, ge=0)
    """what the layers' part beside the direct road is multiplied by: the less, the more slowly it learns by heart"""
    count_similar_regions: bool = True
    """tell the layers and the direct road how many regions look like each (tern/counts.py)"""
    shortcut_dropout: float = Field(0.5, ge=0, lt=1)
    """fraction of the pooled numbers of an image that are zeroed before that map"""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; change one of them")
        return self

    @model_validator(mode="after")
    def _architecture_is_as_published(self) -> ModelConfig:
        for name, value in ARCHITECTURE_SETTINGS[self.architecture].items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"architecture {self.architecture!r} has {name} = {value!r}, not {getattr(self, name)!r}; "
                    f'set preset = "{self.architecture}" in [train], which gives all of them'
                )
        if self.architecture == "paper" and (self.embed_dim % self.heads or not self.shared_layers):
            raise ValueError("architecture 'paper' needs a shared layer, and an embed_dim that is a multiple of heads")
        return self


class FeatureDropout(nn.Module):
    """Zero whole features of an item, in all of its rows at once.

    Pooling averages noise that differs from row to row; this it cannot, and n times fewer draws are needed.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (b, n, w) -> (b, n, w)"""
        return x * F.dropout(x.new_ones(len(x), 1, x.shape[-1]), self.rate) if self.training and self.rate else x


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


def sinusoidal_positions(n: int, size: int, device: torch.device) -> Tensor:
    """The sine and cosine codes of "Attention is all you need", section 3.5: (n, size)."""
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-torch.log(torch.tensor(10000.0)).item() / size))
    angles = torch.arange(n, device=device)[:, None] * rates  # (n, size/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def box_features(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Where a region stands: boxes (b, r, 4) px, sizes (b, 2) px -> (b, r, 5).

    x1/w, y1/h, x2/w, y2/h and the fraction of the picture that the box covers (TERN, section 3.1).
    """
    x1, y1, x2, y2 = (boxes / sizes.repeat(1, 2)[:, None, :].clamp(min=1)).unbind(-1)
    return torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)], dim=-1)


def pool_rows(x: Tensor, mask: Tensor, how: str) -> Tensor:
    """x (b, n, w), mask (b, n) -> (b, w): the mean or the maximum of the real rows, or the first row."""
    if how == "cls":
        return x[:, 0]
    if how == "max":
        return x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
    return masked_mean(x, mask)


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


def build_model(config: ModelConfig, region_dim: int, token_dim: int) -> nn.Module:
    """The network of `config.architecture`, with the methods and attributes of `Tern`."""
    if config.architecture == "default":
        return Tern(config, region_dim, token_dim)
    if config.architecture == "paper":
        from tern.authors import PaperTern as Other  # both are built from parts of this file
    else:
        from tern.seed import KaylodeTern as Other
    return Other(config, region_dim, token_dim)
