"""Find the file of the weights of a backbone of timm."""

from __future__ import annotations

from pathlib import Path

from extractors.config import SUFFIXES, GridConfig
from extractors.packaged import PHOTOS, find_package_file

PHOTOS_MODEL = "tf_efficientnet_lite2"


def find_weights_file(config: GridConfig) -> Path | None:
    """Return the file of the weights of a configuration; None for weights that timm downloads.

    Raises:
        ValueError: The name of the weights is unknown, or they are those of another model.
        FileNotFoundError: The package of the weights is not installed.
    """
    if config.weights.endswith(SUFFIXES):
        return Path(config.weights)
    if config.weights == PHOTOS.name:
        if config.model != PHOTOS_MODEL:
            raise ValueError(
                f'The weights "{PHOTOS.name}" are those of {PHOTOS_MODEL}, not of {config.model}. Set '
                f'`regions.model` to "{PHOTOS_MODEL}".'
            )
        return find_package_file(PHOTOS)
    if config.weights != "DEFAULT":
        raise ValueError(
            f'Unknown weights {config.weights!r}. Set `regions.weights` to "DEFAULT", to "{PHOTOS.name}" or to a '
            ".safetensors or .pth file; other published weights have a name of their own, such as "
            '`regions.model` "resnet50.a1_in1k".'
        )
    return None
