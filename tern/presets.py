"""Presets: what `preset` in `[train]` stands for. A key that is given beside it wins.

`modern` is the defaults, `modern-few` the same for some hundreds of photographs: what would know them by heart is
dropped or held small, each value chosen on validation. `tern` is the recipe of mesnico/TERN
(configs/tern.yaml, train.py), `seed` that of seed/tern (tools/configs/yaml/tern.yaml) with its faults mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER: dict[str, Any] = {
    # one of theirs goes over all captions, five an image; here over all images, each with the next of its captions
    "epochs": 150,
    "images_per_batch": 80,
    "captions_per_image": 1,  # theirs are drawn from all captions: twice the same image was rare
    "lr": 2e-6,
    "weight_decay": 0.0,  # AdamW without decay is Adam
    "warmup": 1000,
    "schedule": "constant",  # their StepLR(30) first falls after their last epoch
    "max_grad_norm": 2.0,
    "ema": 0.0,
    "selection_window": 1,
    "all_negatives_epochs": 0,
    "region_drop": 0.0,
    "token_drop": 0.0,
    "text_lr_scale": 1.0,  # of a BERT that is trained too
    "bf16": True,  # theirs is float32 throughout
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
SMALL_DATA: dict[str, Any] = {
    "region_drop": 0.5,
    "token_drop": 0.0,
    "weight_decay": 0.1,
    "model": {"transformer_scale": 0.1, "shortcut_dropout": 0.7},
    "loss": {"temperature": 0.1, "learn_temperature": False},
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
    "schedule": "cosine",  # one for the run; theirs began anew each epoch
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
    # theirs compared images with images and sentences with sentences too, and by distances beyond 1 of unit vectors
    "loss": {
        "name": "ContrastiveLoss",
        "distance": "cosine",
        "reduction": "nonzero",
        "params": {"pos_margin": 1.0, "neg_margin": 0.0},
    },
}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "small-data": SMALL_DATA, "paper": PAPER, "kaylode": KAYLODE}


def apply_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `given`, over those of the preset it names; tables such as `model` are merged key by key.

    A preset that is not known is left for the caller's validation to refuse.
    """
    return merge_tables(PRESETS.get(str(given.get("preset", "default")), {}), given)


def merge_tables(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `over` winning, in tables as well; but `params` of a loss come whole from one of them."""
    both = dict(under) | dict(over)
    for key in under.keys() & over.keys() - {"params", "miner_params"}:
        if isinstance(under[key], Mapping) and isinstance(over[key], Mapping):
            both[key] = merge_tables(under[key], over[key])
    if "name" in over and over["name"] != under.get("name", over["name"]):
        return dict(over)  # another loss: the numbers of the preset's mean nothing to it
    return both
