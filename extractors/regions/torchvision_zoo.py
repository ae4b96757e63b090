"""Torchvision zoo of `extractors`."""

from __future__ import annotations

from torch import Tensor
from torchvision import models


def load_torchvision_weights(model: str, weights: str) -> tuple[dict[str, Tensor], models.Weights]:
    """Tensors and entry of the weights that torchvision publishes under a name, fetched once and their hash checked.

    Raises ValueError for an unknown name, FileNotFoundError where they are not to be had, with the address.
    """
    known = models.get_model_weights(model)
    names = [*known.__members__]
    if weights not in names:
        raise ValueError(f"{model} has no weights {weights!r}: use {', '.join(names)} or a .safetensors or .pth file")
    entry = known[weights]
    try:
        # Not by the builder: it unpickles what it finds in the cache, without a look at the hash.
        return entry.get_state_dict(progress=True, check_hash=True, weights_only=True), entry
    except OSError as error:  # torch.hub could not download
        raise FileNotFoundError(
            f"{model} {weights} is not on this machine and could not be fetched ({error}): download {entry.url} "
            "elsewhere and give the file as weights"
        ) from error
