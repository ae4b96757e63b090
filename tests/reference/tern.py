"""Reference implementation of TERN as the authors run it: nn.TransformerEncoder in float32, one image per caption.

Used by `tests/tern/networks/test_paper.py` and by the benchmarks. Module names are those of the authors' checkpoints.
"""

import torch
from torch import Tensor, nn


class Images(nn.Module):
    """The visual part: box MLP, layers, and the unused head."""

    def __init__(self, d: int, e: int, layers: int, ff: int, dropout: float) -> None:
        super().__init__()
        self.transformer_encoder = encoder(d, layers, ff, dropout)
        self.pos_encoding_image = nn.Module()
        self.pos_encoding_image.map = nn.Sequential(nn.Linear(d + 5, d), nn.ReLU(), nn.Linear(d, d))
        self.fc = nn.Linear(d, e)


class Words(nn.Module):
    """The unused head after BERT."""

    def __init__(self, d: int, e: int) -> None:
        super().__init__()
        self.map = nn.Linear(d, e)


class SlowTern(nn.Module):
    """The network: pairs of an image and a caption in, a unit vector of each out."""

    def __init__(self, d=2048, t=768, e=1024, layers=4, shared=2, ff=2048, dropout=0.1) -> None:
        super().__init__()
        self.img_enc, self.txt_enc = Images(d, e, layers, ff, dropout), Words(t, e)
        self.img_proj, self.cap_proj = nn.Linear(d, e), nn.Linear(t, e)
        self.transformer_encoder_1 = encoder(e, shared, ff, dropout)

    def forward(self, features: Tensor, boxes: Tensor, sizes: Tensor, regions: list[int], words: Tensor,
                lengths: list[int]) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Embed a batch of pairs.

        Args:
            features: (b, r, d).
            boxes: (b, r, 4) x1 y1 x2 y2 in pixels.
            sizes: (b, 2) width and height in pixels.
            regions: Regions of each image.
            words: (b, l, t).
            lengths: Tokens of each caption.

        Returns:
            Vectors of images and captions, each (b, e).
        """
        scaled = boxes / torch.cat([sizes, sizes], dim=1)[:, None]
        zero = torch.zeros(len(features), 1, 4)
        scaled = torch.cat([zero, scaled], dim=1)
        features = torch.cat([torch.zeros(len(features), 1, features.shape[2]), features], dim=1)
        area = (scaled[..., 2] - scaled[..., 0]) * (scaled[..., 3] - scaled[..., 1])
        x = self.img_enc.pos_encoding_image.map(torch.cat([features, scaled, area[..., None]], dim=2))
        masked = padding([n + 1 for n in regions], x.shape[1])
        x = self.img_enc.transformer_encoder(x.transpose(0, 1), src_key_padding_mask=masked)
        self.img_enc.fc(x.mean(dim=0))
        x = self.transformer_encoder_1(self.img_proj(x), src_key_padding_mask=masked)[0]
        self.txt_enc.map(words.mean(dim=1))
        y = self.cap_proj(words).transpose(0, 1)
        y = self.transformer_encoder_1(y, src_key_padding_mask=padding(lengths, words.shape[1]))[0]
        return x / x.pow(2).sum(1, keepdim=True).sqrt(), y / y.pow(2).sum(1, keepdim=True).sqrt()


def encoder(width: int, layers: int, ff: int, dropout: float) -> nn.TransformerEncoder:
    """Build layers with post-norm and ReLU; the first dimension is that of the rows."""
    layer = nn.TransformerEncoderLayer(width, 4, ff, dropout, "relu")
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def padding(lengths: list[int], longest: int) -> Tensor:
    """Make the mask (b, longest) bool, True for padding, item by item."""
    mask = torch.zeros(len(lengths), longest).bool()
    for row, length in zip(mask, lengths, strict=True):
        row[length:] = True
    return mask


def hinge(images: Tensor, captions: Tensor, margin: float = 0.2) -> Tensor:
    """Compute the loss of the authors: hardest negatives in both directions; all but the diagonal are negatives."""
    scores = images @ captions.T
    positive = scores.diag().view(-1, 1)
    eye = torch.eye(len(scores)) > 0.5
    rows = (margin + scores - positive).clamp(min=0).masked_fill(eye, 0).max(1)[0]
    columns = (margin + scores - positive.T).clamp(min=0).masked_fill(eye, 0).max(0)[0]
    return rows.sum() + columns.sum()
