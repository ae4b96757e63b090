"""What several tests of `tern` share: settings of small trainings, batches, vectors with ties."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

THINGS = 12
CONFIG = {
    "epochs": 5, "images_per_batch": 16, "captions_per_image": 2, "lr": 3e-3, "region_drop": 0.2,
    "model": {
        "shortcut_dropout": 0.2, "input_dropout": 0.1, "width": 32, "heads": 2, "feedforward_dim": 48, "embed_dim": 24,
    },
}  # fmt: skip
RESUMED_CONFIG = CONFIG | {"images_per_batch": 8, "gradient_accumulation_steps": 2, "length_groups": 3, "save_steps": 1}
FITTING = [
    "AngularLoss", "CircleLoss", "ContrastiveLoss", "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss", "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NCALoss", "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss", "SupConLoss", "TripletMarginLoss", "TupletMarginLoss",
]  # fmt: skip


class Words(nn.Module):
    """The smallest text encoder: one row per word."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(THINGS + 3, 14)

    def forward(self, ids, mask):
        return self.rows(ids) * mask[..., None]


def batch(captions=(1, 2, 3, 1, 2), seed=0, dim=16):
    """Images with different numbers of captions in random order, so that the diagonal has no meaning."""
    draw = torch.Generator().manual_seed(seed)
    image_ids = torch.tensor([40, 7, 99, 3, 12])[: len(captions)]
    owners = image_ids.repeat_interleave(torch.tensor(captions))
    owners = owners[torch.randperm(len(owners), generator=draw)]
    rows = [F.normalize(torch.randn(k, dim, generator=draw), dim=1) for k in (len(image_ids), len(owners))]
    return (*(row.requires_grad_() for row in rows), image_ids, owners)


def scene(seed=0, images=23, ties=True):
    """Vectors of small integers, so that many scores tie; images have 1 to 7 captions in random order."""
    draw = np.random.default_rng(seed)
    ids = [f"{k}.jpg" for k in draw.permutation(1000)[:images]]
    owners = draw.permutation([name for name in ids for _ in range(draw.integers(1, 8))]).tolist()
    rows = (draw.integers(-1, 2, (k, 6)) if ties else draw.normal(size=(k, 6)) for k in (images, len(owners)))
    image_vectors, caption_vectors = (row.astype(np.float32) for row in rows)
    return image_vectors, ids, caption_vectors, owners


class Killed(Exception):
    """Raised instead of the end of the process."""
