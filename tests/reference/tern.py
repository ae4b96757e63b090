"""TERN from its specification, as the authors run it: nn.TransformerEncoder in float32, an image row a caption.

For the bench and as the oracle of test_tern_authors.py; module names are those of the authors' checkpoints.
"""

import torch
from torch import Tensor, nn


class Images(nn.Module):
    """The visual side: box MLP and a stack, and the dead head."""

    def __init__(self, d: int, e: int, layers: int, ff: int, dropout: float) -> None:
        super().__init__()
        self.transformer_encoder = encoder(d, layers, ff, dropout)
        self.pos_encoding_image = nn.Module()
        self.pos_encoding_image.map = nn.Sequential(nn.Linear(d + 5, d), nn.ReLU(), nn.Linear(d, d))
        self.fc = nn.Linear(d, e)


class Words(nn.Module):
    """The dead head beside BERT."""

    def __init__(self, d: int, e: int) -> None:
        super().__init__()
        self.map = nn.Linear(d, e)


class SlowTern(nn.Module):
    """Pairs of an image and a caption -> two unit vectors of each."""

    def __init__(self, d=2048, t=768, e=1024, layers=4, shared=2, ff=2048, dropout=0.1) -> None:
        super().__init__()
        self.img_enc, self.txt_enc = Images(d, e, layers, ff, dropout), Words(t, e)
        self.img_proj, self.cap_proj = nn.Linear(d, e), nn.Linear(t, e)
        self.transformer_encoder_1 = encoder(e, shared, ff, dropout)

    def forward(self, features: Tensor, boxes: Tensor, sizes: Tensor, regions: list[int], words: Tensor,
                lengths: list[int]) -> tuple[Tensor, Tensor]:  # fmt: skip
        """features (b, r, d), boxes (b, r, 4) px, sizes (b, 2) px, words (b, l, t), rows of each -> (b, e) twice"""
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
    """Post-norm, ReLU, rows first."""
    layer = nn.TransformerEncoderLayer(width, 4, ff, dropout, "relu")
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def padding(lengths: list[int], longest: int) -> Tensor:
    """(b, longest) bool, True for padding, item by item."""
    mask = torch.zeros(len(lengths), longest).bool()
    for row, length in zip(mask, lengths, strict=True):
        row[length:] = True
    return mask


def hinge(images: Tensor, captions: Tensor, margin: float = 0.2) -> Tensor:
    """The authors' loss: hardest negatives both ways, summed; only the diagonal is no negative."""
    scores = images @ captions.T
    own = scores.diag().view(-1, 1)
    eye = torch.eye(len(scores)) > 0.5
    rows = (margin + scores - own).clamp(min=0).masked_fill(eye, 0).max(1)[0]
    columns = (margin + scores - own.T).clamp(min=0).masked_fill(eye, 0).max(0)[0]
    return rows.sum() + columns.sum()
