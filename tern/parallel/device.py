"""Device of `tern`."""

from __future__ import annotations

import torch


def current_device() -> str:
    """`cuda:0` or whichever GPU is this process's, or `cpu` where there is none."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def resolve_device(name: str) -> str:
    """The device that a setting stands for: `auto` is this process's GPU if there is one, `cuda` is it in any case."""
    own = name == "auto" or (name == "cuda" and torch.cuda.is_available())
    return current_device() if own else name
