"""Reference implementation of TERAN: its network with nn.TransformerEncoder, and its score in plain loops.

Written from Messina et al. (2021), section 3.3, and from what mesnico/TERAN saves and leaves out.
"""

import torch
from torch import Tensor, nn

from tests.reference.tern import Images, Words, encoder, padding

LONGEST = 88  # tokens to which the authors pad all captions of an evaluation


class SlowTeran(nn.Module):
    """The network: one vector per region and per token, with those of [CLS]. Names are those of the checkpoints."""

    def __init__(self, d=24, t=10, e=16, layers=3, last=2, ff=20, is_shared=False) -> None:
        super().__init__()
        self.img_enc, self.txt_enc = Images(d, e, layers, ff, 0.1), Words(t, e)
        self.img_proj, self.cap_proj = nn.Linear(d, e), nn.Linear(t, e)
        self.transformer_encoder_1 = encoder(e, last, ff, 0.1)
        if not is_shared:
            self.transformer_encoder_2 = encoder(e, last, ff, 0.1)

    def embed_image(self, features: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
        """Embed one image: (r, d) and (r, 4) in pixels -> (1 + r, e)."""
        corners = torch.cat([torch.zeros(1, 4), boxes / size.repeat(2)])
        x = torch.cat([torch.zeros(1, features.shape[1]), features])
        area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        x = self.img_enc.pos_encoding_image.map(torch.cat([x, corners, area[:, None]], dim=1))[:, None]
        x = self.img_enc.transformer_encoder(x, src_key_padding_mask=padding([len(x)], len(x)))
        last = getattr(self, "transformer_encoder_2", self.transformer_encoder_1)
        return self._normalize(last(self.img_proj(x))[:, 0])

    def embed_caption(self, words: Tensor) -> Tensor:
        """Embed one caption: (l, t), from [CLS] to [SEP] -> (l, e)."""
        return self._normalize(self.transformer_encoder_1(self.cap_proj(words)[:, None])[:, 0])

    @staticmethod
    def _normalize(rows: Tensor) -> Tensor:
        return torch.stack([row / row.pow(2).sum().sqrt() for row in rows])


def slow_score(image: Tensor, caption: Tensor, mode: str) -> float:
    """Score one image (1 + r, e) and one caption (l, e) as an evaluation of the authors does."""
    words = caption[1 : len(caption) - 2]
    table = [[float(region @ word) for word in words] for region in image[1:]]
    by_words = sum(max(row[j] for row in table) for j in range(len(words)))
    # Columns of the padding are zeros, and take part in the maximum over words.
    by_regions = sum(max([*row, 0.0] if len(words) < LONGEST - 3 else row) for row in table)
    return {"MrSw": by_words, "MwSr": by_regions, "symm": by_words + by_regions}[mode]


def make_slow_teran(seed: int = 1, scale: float = 0.2, **shape: int) -> SlowTeran:
    """Build a network with random weights: layers differ, and biases and norms matter."""
    torch.manual_seed(seed)
    slow = SlowTeran(**shape)
    with torch.no_grad():
        for parameter in slow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return slow.eval()


def make_config(mode: str = "MrSw", is_shared: bool = False, **changes: dict[str, object]) -> dict[str, object]:
    """Make the configuration that a checkpoint contains; `changes` are further settings by table."""
    training = {"loss-type": "alignment", "alignment-mode": mode, "measure": "dot", "margin": 0.2}
    model = {"name": "teran", "shared-transformer": is_shared, "exclude-stopwords": False, "layers": 2}
    model |= {"text-aggregation": "first", "image-aggregation": "first"}
    tables = {"training": training, "model": model}
    return {name: table | changes.get(name, {}) for name, table in tables.items()}


def save_teran(path, slow: nn.Module, config: dict[str, object] | None, extra: dict[str, Tensor] | None = None) -> None:
    """Save a checkpoint with the names that train.py of the authors writes."""
    state = {f"img_txt_enc.{name}": value for name, value in slow.state_dict().items()} | (extra or {})
    content = {"epoch": 3, "model": state, "optimizer": {}, "scheduler": None, "Eiters": 7}
    torch.save(content if config is None else content | {"config": config}, path)
