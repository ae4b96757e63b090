"""Backbones of timm that return the maps of some of their layers; loaded by the grid extractor when it needs them.

Shapes: b images, n tokens, h x w positions of a map, d channels.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from data.text import suggest_name
from extractors.config import GridConfig
from extractors.nn.backbone_weights import PHOTOS_MEAN, PHOTOS_STD, load_weights_file
from extractors.nn.state_dict import state_sha256
from extractors.packaged import PHOTOS
from extractors.torch_free import BackboneInfo, ImageFit


class Backbone(nn.Module):
    """A model of timm without its classifier, with the normalization of the colors in front of it.

    Args:
        model: The model, in eval mode.
        layers: Names of the modules whose outputs are returned.
        fit: Size and colors of the network input.
    """

    def __init__(self, model: nn.Module, layers: tuple[str, ...], fit: ImageFit) -> None:
        super().__init__()
        self.model, self.layers = model, layers
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(fit.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(fit.std)[:, None, None], persistent=False)
        self._is_channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._num_prefix_tokens = int(getattr(model, "num_prefix_tokens", 0))
        self._outputs = threading.local()  # `forward` may run in several threads
        for name in layers:
            model.get_submodule(name).register_forward_hook(self._make_hook(name))
        self.eval()

    def _make_hook(self, name: str) -> Any:
        def keep_output(module: nn.Module, inputs: Any, output: Any) -> None:
            # A copy: the activation after the module may change its output in place.
            self._outputs.by_name[name] = output.clone() if isinstance(output, Tensor) else output

        return keep_output

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the layers.

        Args:
            pixels: (b, height, width, 3) uint8 RGB.

        Returns:
            Per layer (b, d, h, w), in the dtype of the model.
        """
        dtype = next(self.model.parameters()).dtype
        inputs = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std  # (b, 3, height, width)
        self._outputs.by_name = {}
        self.model.forward_features(inputs.to(dtype))  # type: ignore[operator]  # every model of timm has it
        outputs = [self._outputs.by_name.get(name) for name in self.layers]
        aspect_ratio = inputs.shape[2] / inputs.shape[3]
        return tuple(self._make_map(*pair, aspect_ratio) for pair in zip(self.layers, outputs, strict=True))

    def _make_map(self, layer: str, output: Any, aspect_ratio: float) -> Tensor:
        """Return the output of a layer as (b, d, h, w)."""
        if isinstance(output, Tensor) and output.ndim == 4:
            return output.permute(0, 3, 1, 2) if self._is_channels_last else output
        if isinstance(output, Tensor) and output.ndim == 3:  # (b, n, d)
            num_patches = int(output.shape[1]) - self._num_prefix_tokens
            height = round(math.sqrt(num_patches * aspect_ratio))
            if height and num_patches % height == 0:
                patches = output[:, self._num_prefix_tokens :]
                return patches.transpose(1, 2).reshape(len(output), -1, height, num_patches // height)
        kind = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        reason = "is not used" if output is None else f"returns {kind}"
        raise ValueError(
            f"The layer {layer!r} {reason} instead of a map, (b, d, h, w), or tokens of patches, (b, n, d). Set "
            "`layer` to another one."
        )


def load_backbone(config: GridConfig, weights_file: Path | None) -> tuple[Backbone, BackboneInfo]:
    """Build a backbone in float32 on the CPU and load its weights.

    Args:
        config: Settings of the extractor.
        weights_file: The file of the weights; None for weights that timm downloads.

    Raises:
        ValueError: The model, a layer or the size of the input is not possible, or the weights do not fit.
        FileNotFoundError: The weights do not exist.
    """
    fit = _find_fit(config)
    model = _create_model(config, fit, is_published=weights_file is None)
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", None) or (1, 1)
    fit = fit.model_copy(update={"patch_size": max(patch_size)})
    if weights_file is not None:
        load_weights_file(model, weights_file, config)
    layers = config.layers
    names = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in names:
            hint = suggest_name(layer, names if "." in layer else [n for n in names if "." not in n], "its modules are")
            raise ValueError(f"{config.model} does not have the layer {layer!r}: {hint}. Set `layer` to one.")
    backbone = Backbone(model, layers, fit)
    shapes = _probe_shapes(backbone, fit, config.model)
    return backbone, BackboneInfo(
        fit=fit,
        channels=tuple(shape[1] for shape in shapes),
        map_side=min(min(shape[2:]) for shape in shapes),
        weights_sha256=state_sha256(model),
    )


def _find_fit(config: GridConfig) -> ImageFit:
    """Return the preprocessing that timm names for a model, with the settings of the configuration."""
    if not timm.is_model(config.model):
        hint = suggest_name(config.model, timm.list_models(), "the models of timm are")
        raise ValueError(f"Unknown backbone {config.model!r}: {hint}. Set `model` to one.")
    values = resolve_model_data_config(None, pretrained_cfg=_find_published(config.model).to_dict())
    if config.weights == PHOTOS.name:
        values |= {"mean": PHOTOS_MEAN, "std": PHOTOS_STD}
    return ImageFit(
        fit=config.fit,
        image_size=config.image_size or values["input_size"][-1],
        mean=values["mean"],
        std=values["std"],
        interpolation=values["interpolation"],
        crop_pct=values["crop_pct"],
        patch_size=1,
    )


def _find_published(name: str) -> Any:
    """Return what timm publishes with a model: its preprocessing and the place of its weights."""
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:  # the name has a tag of other weights
        raise ValueError(f"Unknown backbone {name!r}: {error}. Set `model` to one.") from error


def _create_model(config: GridConfig, fit: ImageFit, is_published: bool) -> nn.Module:
    """Build a model of timm without its classifier, with the weights that timm publishes or with random ones."""
    sizes: dict[str, Any] = {}
    if _find_published(config.model).fixed_input_size:
        sizes = {"img_size": fit.image_size} if fit.is_square else {"dynamic_img_size": True}
    try:
        return timm.create_model(config.model, pretrained=is_published, num_classes=0, **sizes).eval()
    except (TypeError, AssertionError) as error:
        name = "image_size" if fit.is_square else "fit"
        raise ValueError(
            f"{config.model} accepts no input of {name} {getattr(fit, name)!r} ({error}). Set `fit` to "
            '"squash" or "center crop", and leave `image_size` out.'
        ) from error
    except Exception as error:  # whatever the HTTP client of the installed release raises
        if not is_published:
            raise
        raise FileNotFoundError(
            f"The weights of {config.model} are not on this machine and could not be downloaded ({error}). Download "
            "them on another machine, and set `regions.weights` to the file or pass --set regions.weights=FILE."
        ) from error


@torch.inference_mode()
def _probe_shapes(backbone: Backbone, fit: ImageFit, name: str) -> list[tuple[int, ...]]:
    """Return the shapes of the maps of the smallest input, after a run of one twice as wide where there are such."""
    sides = [(fit.image_size, fit.image_size)]
    if not fit.is_square:
        sides.insert(0, (fit.image_size, 2 * fit.image_size))
    try:
        for height, width in sides:
            maps = backbone(torch.zeros(1, height, width, 3, dtype=torch.uint8))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"{name} cannot be run on an input of {width}x{height} pixels ({error}). Set another `image_size` or `fit`."
        ) from error
    return [tuple(features.shape) for features in maps]
