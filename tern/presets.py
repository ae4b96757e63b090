"""Presets: what `preset` in `[train]` stands for. A key that is given beside it wins.

`modern` is the defaults, `modern-few` the same for some hundreds of photographs: what would know them by heart is
dropped or held small, each value chosen on validation. `tern` is the recipe of mesnico/TERN
(configs/tern.yaml, train.py), `seed` that of kaylode/tern (tools/configs/yaml/tern.yaml) with its faults mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TERN: dict[str, Any] = {
    # one of theirs goes over all captions, five an image; here over all images, each with the next of its captions
    "epochs": 150,
    "batch_images": 80,
    "captions_per_image": 1,  # theirs are drawn from all captions: twice the same image was rare
    "lr": 2e-6,
    "weight_decay": 0.0,  # AdamW without decay is Adam
    "warmup": 1000,
    "schedule": "constant",  # their StepLR(30) first falls after their last epoch
    "clip_norm": 2.0,
    "ema": 0.0,
    "choose_over": 1,
    "easy_epochs": 0,
    "region_drop": 0.0,
    "token_drop": 0.0,
    "text_rate": 1.0,  # of a BERT that is trained too
    "bf16": True,  # theirs is float32 throughout
    "model": {
        "architecture": "tern",
        "width": 2048,
        "heads": 4,
        "visual_layers": 4,
        "text_layers": 0,
        "shared_layers": 2,
        "ff": 2048,
        "dropout": 0.1,
        "input_dropout": 0.0,
        "embed_dim": 1024,
        "pooling": "cls",
        "pre_norm": False,
        "direct": False,
        "counts": False,
    },
    "loss": {"name": "hinge", "margin": 0.2, "negatives": "hardest", "reduction": "sum"},
}

MODERN_FEW: dict[str, Any] = {
    "region_drop": 0.5,
    "token_drop": 0.0,
    "weight_decay": 0.1,
    "model": {"reasoning": 0.1, "direct_dropout": 0.7},
    "loss": {"temperature": 0.1, "learn_temperature": False},
}

SEED: dict[str, Any] = {
    "epochs": 100,
    "batch_images": 128,
    "captions_per_image": 1,
    "lr": 1e-3,
    "betas": (0.937, 0.98),
    "eps": 1e-9,
    "weight_decay": 5e-4,
    "warmup": 0.0,
    "schedule": "cosine",  # one for the run; theirs began anew each epoch
    "clip_norm": 10.0,
    "ema": 0.0,
    "choose_over": 1,
    "easy_epochs": 0,
    "region_drop": 0.0,
    "token_drop": 0.0,
    "bf16": True,
    "model": {
        "architecture": "seed",
        "width": 768,
        "heads": 4,
        "visual_layers": 4,
        "text_layers": 0,
        "shared_layers": 0,
        "ff": 2048,
        "dropout": 0.1,
        "input_dropout": 0.0,
        "embed_dim": 1024,
        "pooling": "mean",
        "pre_norm": True,
        "direct": False,
        "counts": False,
    },
    # theirs compared images with images and sentences with sentences too, and by distances beyond 1 of unit vectors
    "loss": {
        "name": "ContrastiveLoss",
        "distance": "cosine",
        "reduction": "nonzero",
        "params": {"pos_margin": 1.0, "neg_margin": 0.0},
    },
}

PRESETS: dict[str, dict[str, Any]] = {"modern": {}, "modern-few": MODERN_FEW, "tern": TERN, "seed": SEED}


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `given`, over those of the preset it names; tables such as `model` are merged key by key.

    A preset that is not known is left for the caller's validation to refuse.
    """
    return merge(PRESETS.get(str(given.get("preset", "modern")), {}), given)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `over` winning, in tables as well; but `params` of a loss come whole from one of them."""
    both = dict(under) | dict(over)
    for key in under.keys() & over.keys() - {"params", "miner_params"}:
        if isinstance(under[key], Mapping) and isinstance(over[key], Mapping):
            both[key] = merge(under[key], over[key])
    if "name" in over and over["name"] != under.get("name", over["name"]):
        return dict(over)  # another loss: the numbers of the preset's mean nothing to it
    return both
