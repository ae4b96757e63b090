"""Presets: the values of `preset` in `[train]`. Settings of the plan take precedence.

`default` is one recipe for every number of training images: `follow_size` chooses what depends on it. `paper` is the
recipe of mesnico/TERN (configs/tern.yaml, train.py). `kaylode` is the recipe of kaylode/tern
(tools/configs/yaml/tern.yaml) without its errors. `vse-infinity` is the recipe of woodfrog/vse_infty for region
features (train_region.sh, train.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PAPER: dict[str, Any] = {
    # An epoch of the authors covers all captions, five per image; an epoch here covers each image once, with one
    # caption.
    "epochs": 150,
    "images_per_batch": 80,
    "captions_per_image": 1,  # the authors sample from all captions, so one image rarely occurs twice in a batch
    "lr": 2e-6,
    "weight_decay": 0.0,  # AdamW without decay is Adam
    "warmup": 1000,
    "schedule": "constant",  # the StepLR(30) of the authors first falls after their last epoch
    "max_grad_norm": 2.0,
    "ema": 0.0,
    "selection_window": 1,
    "all_negatives_epochs": 0,
    "region_drop": 0.0,
    "token_drop": 0.0,
    "text_lr_scale": 1.0,  # used with `fine_tune` only
    "bf16": True,  # the authors use float32
    "model": {
        "architecture": "paper",
        "width": 2048,
        "heads": 4,
        "visual_layers": 4,
        "text_layers": 0,
        "shared_layers": 2,
        "feedforward_dim": 2048,
        "dropout": 0.1,
        "input_dropout": 0.0,
        "embed_dim": 1024,
        "pooling": "cls",
        "pre_norm": False,
        "shortcut": False,
        "count_similar_regions": False,
    },
    "loss": {"name": "hinge", "margin": 0.2, "negatives": "hardest", "reduction": "sum"},
}
KAYLODE: dict[str, Any] = {
    "epochs": 100,
    "images_per_batch": 128,
    "captions_per_image": 1,
    "lr": 1e-3,
    "betas": (0.937, 0.98),
    "eps": 1e-9,
    "weight_decay": 5e-4,
    "warmup": 0.0,
    "schedule": "cosine",  # one cosine per run; kaylode/tern restarts it in each epoch
    "max_grad_norm": 10.0,
    "ema": 0.0,
    "selection_window": 1,
    "all_negatives_epochs": 0,
    "region_drop": 0.0,
    "token_drop": 0.0,
    "bf16": True,
    "model": {
        "architecture": "kaylode",
        "width": 768,
        "heads": 4,
        "visual_layers": 4,
        "text_layers": 0,
        "shared_layers": 0,
        "feedforward_dim": 2048,
        "dropout": 0.1,
        "input_dropout": 0.0,
        "embed_dim": 1024,
        "pooling": "mean",
        "pre_norm": True,
        "shortcut": False,
        "count_similar_regions": False,
    },
    # kaylode/tern also compares images with images and captions with captions, and uses distances above 1.
    "loss": {
        "name": "ContrastiveLoss",
        "distance": "cosine",
        "reduction": "nonzero",
        "params": {"pos_margin": 1.0, "neg_margin": 0.0},
    },
}
DEFAULT: dict[str, Any] = {"model": {"embed_dim": 1024, "pooled_half": True, "alignment_dim": 64}}
FEW_IMAGES, MANY_IMAGES = 1500, 5500  # between them, the strength of the regularization changes
VSE_INFINITY: dict[str, Any] = {
    # 25 epochs of the authors, with one caption per image in an epoch here, as in `paper`.
    "epochs": 125,
    "images_per_batch": 128,
    "captions_per_image": 1,
    "lr": 5e-4,
    "weight_decay": 1e-4,
    "warmup": 0.0,  # the authors' linear warmup is for grid features only
    "schedule": "step",
    "max_grad_norm": 2.0,
    "ema": 0.0,
    "selection_window": 1,
    "all_negatives_epochs": 5,  # one epoch of the authors
    "region_drop": 0.2,
    "token_drop": 0.2,  # of a fifth of the words, the authors leave out 40 % and replace 50 % by [MASK]
    "text_lr_scale": 0.1,  # used with `fine_tune` only
    "model": {
        "architecture": "vse-infinity",
        "width": 512,
        "visual_layers": 0,
        "text_layers": 0,
        "shared_layers": 0,
        "input_dropout": 0.0,
        "embed_dim": 1024,
        "pooling": "gpo",
        "box_embedding": "none",
        "shortcut": False,
        "count_similar_regions": False,
    },
    "loss": {"name": "hinge", "margin": 0.2, "negatives": "hardest", "reduction": "sum"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "paper": PAPER,
    "kaylode": KAYLODE,
    "vse-infinity": VSE_INFINITY,
}


def follow_size(num_images: int, num_captions: int, num_val_images: int) -> dict[str, Any]:
    """Choose the settings of the preset `default` that follow from the size of the dataset (decision 056).

    With few images the network overfits: up to 1,500, the transformer branch is weak, and more of the shortcut's
    features are dropped; from 5,500 on, neither is needed. In between, the settings follow the logarithm of the size.
    The number of steps grows with the square root of the size.

    Args:
        num_images: Images of `train` with captions.
        num_captions: Captions of `train`. A fifth of them is the size, if the images are more.
        num_val_images: Images of `val`, whose rsum selects the epoch.

    Returns:
        Settings, nested as in `[train]`. `epochs` is 40 for 250 images and fewer, 20 for 1,000, and 8 for 6,250 and
        more. `selection_window` is 5 for 111 images of `val` and fewer, and 1 for 334 and more.
    """
    size = max(1.0, min(num_images, num_captions / 5))
    few = math.log(MANY_IMAGES / size) / math.log(MANY_IMAGES / FEW_IMAGES)
    few = min(max(few, 0.0), 1.0)  # 1 for few images, 0 for many
    return {
        "epochs": min(max(round(20 * math.sqrt(1000 / size)), 8), 40),
        "selection_window": min(max(round(500 / max(1, num_val_images)), 1), 5),
        "model": {"transformer_scale": 0.3 * 3**-few, "shortcut_dropout": 0.5 + 0.2 * few},
        "loss": {"temperature": 0.07 * (0.1 / 0.07) ** few},
    }


def apply_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Complete settings of `[train]` with the values of the preset that they name.

    Args:
        settings: Settings of the plan; they take precedence. Tables such as `model` are merged key by key.

    Returns:
        The merged settings. An unknown preset adds nothing; validation of the settings reports it.
    """
    return merge_tables(PRESETS.get(str(settings.get("preset", "default")), {}), settings)


def merge_tables(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested tables; `settings` take precedence.

    `params` and `miner_params` are not merged. If `settings` name another loss, the defaults are ignored, because they
    belong to the loss of the preset.
    """
    merged = dict(defaults) | dict(settings)
    for key in defaults.keys() & settings.keys() - {"params", "miner_params"}:
        if isinstance(defaults[key], Mapping) and isinstance(settings[key], Mapping):
            merged[key] = merge_tables(defaults[key], settings[key])
    if "name" in settings and settings["name"] != defaults.get("name", settings["name"]):
        return dict(settings)
    return merged
