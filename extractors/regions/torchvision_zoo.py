"""Weights that torchvision publishes; used by the detectors and the grid extractor."""

from __future__ import annotations

from torch import Tensor
from torchvision import models


def load_torchvision_weights(model: str, weights: str) -> tuple[dict[str, Tensor], models.Weights]:
    """Load weights that torchvision publishes; they are downloaded once, and their hash is checked.

    Args:
        model: Name of a torchvision builder.
        weights: Name of an entry of its weights, such as "DEFAULT".

    Returns:
        Tensors by parameter name, and the entry of torchvision with the class names.

    Raises:
        ValueError: The model has no weights of this name.
        FileNotFoundError: The weights are not on this machine and cannot be downloaded.
    """
    known = models.get_model_weights(model)
    names = [*known.__members__]
    if weights not in names:
        raise ValueError(
            f"{model} has no weights {weights!r}. Set `regions.weights` to one of {', '.join(names)}, or to a "
            ".safetensors or .pth file."
        )
    entry = known[weights]
    try:
        # The builder itself would unpickle a file in the cache without checking its hash.
        return entry.get_state_dict(progress=True, check_hash=True, weights_only=True), entry
    except OSError as error:  # torch.hub could not download the file
        raise FileNotFoundError(
            f"The weights {weights} of {model} are not on this machine and could not be downloaded ({error}). Download "
            f"{entry.url} on another machine, and set `regions.weights` to the file or pass --set regions.weights=FILE."
        ) from error
