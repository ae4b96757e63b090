"""Choose the device on which a process trains or embeds."""

from __future__ import annotations

import torch


def current_device() -> str:
    """Return the GPU of this process, such as `cuda:0`, or `cpu` if there is none."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def resolve_device(name: str) -> str:
    """Return the device of a setting.

    `auto` is the GPU of this process if there is one, else `cpu`; `cuda` is the GPU of this process.
    """
    use_current = name == "auto" or (name == "cuda" and torch.cuda.is_available())
    return current_device() if use_current else name
