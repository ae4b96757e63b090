"""Weights of the backbones of timm: published ones, those of a file, and those of the package of the extra `photos`."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor, nn

from extractors.config import GridConfig
from extractors.nn.state_dict import load_state_dict_file, load_state_dict_strict
from extractors.packaged import PHOTOS

# The weights were trained in TensorFlow with (x - 127) / 128, see docs/decisions/045-backbones.md.
PHOTOS_MEAN, PHOTOS_STD = (127 / 255,) * 3, (128 / 255,) * 3
STAGE_DEPTHS = (1, 3, 3, 4, 4, 5, 1)  # of EfficientNet-Lite2, whose package numbers the blocks of all stages
OTHER_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
BLOCK_NAMES = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
BLOCK_NAMES |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
FIRST_BLOCK_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def load_weights_file(model: nn.Module, path: Path, config: GridConfig) -> None:
    """Load a weights file into a model of timm without its classifier, in place.

    Position embeddings are resampled to the size of the input, as timm does it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The weights are damaged, or are not those of the model.
    """
    state, _ = load_state_dict_file(path)
    source = f"{config.weights} of {config.model}"
    if config.weights == PHOTOS.name:
        state = {rename_photos_key(key): value for key, value in state.items()}
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(state, model)
        except (KeyError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"The weights {source} do not fit ({error}). Set `model` to the model that they were trained for."
            ) from error
    load_state_dict_strict(model, _remove_classifier(model, state), source)


def _remove_classifier(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the layers that map features to classes, which may have any shape."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


def rename_photos_key(key: str) -> str:
    """Return the name in timm's model of a parameter of the package of the weights "photos"."""
    module, _, rest = key.partition(".")
    if module != "_blocks":
        return f"{OTHER_NAMES.get(module, module)}.{rest}"
    number, name, parameter = rest.split(".")
    stage, block = 0, int(number)
    while block >= STAGE_DEPTHS[stage]:
        stage, block = stage + 1, block - STAGE_DEPTHS[stage]
    names = BLOCK_NAMES if stage else FIRST_BLOCK_NAMES
    return f"blocks.{stage}.{block}.{names[name]}.{parameter}"
