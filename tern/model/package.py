"""The weights of a model package: written from a model, and imported into the models of a workspace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.io import digest
from data.store import Store
from tern.card import (
    CALIBRATION,
    METRICS,
    MODEL_CARD,
    PACKAGE_CONFIG,
    TEXT_ENCODER,
    WEIGHTS,
    ModelCard,
    ModelPackage,
    PackageConfig,
    verify_package,
)
from tern.model.folder import write_model_folder
from tern.networks.build import build_model, build_trainable
from tern.query.calibration import read_calibration

DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
"""Number types in the header of a file."""
INNER, ENCODER = "tern.", "text."  # prefixes of the parameters of a `TernWithTextEncoder`


def save_package_weights(folder: Path, model: nn.Module, fine_tuned: bool, half: bool) -> nn.Module:
    """Write the weights of a model into the folder of a package.

    Args:
        folder: Folder of the package.
        model: The model.
        fine_tuned: Whether it has a text encoder, which gets a file of its own.
        half: Whether to store matrices in float16.

    Returns:
        The model with the weights that the files have.

    Raises:
        ValueError: A weight is too large for float16.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {name: value.half() if _is_halved(value) else value for name, value in state.items()}
        if bad := [name for name, value in state.items() if _is_halved(value) and not torch.isfinite(value).all()]:
            raise ValueError(f"{bad[0]!r} of the model is too large for float16. Leave out --half.")
    parts = ((WEIGHTS, INNER), (TEXT_ENCODER, ENCODER)) if fine_tuned else ((WEIGHTS, ""),)
    for file, prefix in parts:
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        save_file(part, folder / file)
    if not half:
        return model
    rounded = copy.deepcopy(model)
    rounded.load_state_dict({name: _to_float(value) for name, value in state.items()})
    return rounded


def import_package(
    package: ModelPackage, models: Path, regions: Store, tokens: Store, text: Callable[[], nn.Module]
) -> Path:
    """Import a package as a model, without training.

    The widths of the features are compared. The caller must know that they come from the extractors of the package.

    Args:
        package: The package. All its files are compared with their hashes.
        models: Parent of the new folder, whose name is a digest of the package and of the recipes of the stores. An
            existing folder is returned unchanged.
        regions: Region store that the model will read.
        tokens: Token store that the model will read.
        text: Function that builds the text encoder of `tokens`, for a package that has one. Its weights are replaced.

    Returns:
        The folder, which `load_model` reads; the calibration of the package is in it.

    Raises:
        ValueError: The package is damaged, or a store has features of another width.
    """
    recipes = {"region_recipe": digest(regions.recipe), "token_recipe": digest(tokens.recipe)}
    folder, config = Path(models) / package.name_model(**recipes), package.config
    if (folder / MODEL_CARD).is_file():
        return folder
    for kind, store, dim in (("regions", regions, config.region_dim), ("tokens", tokens, config.token_dim)):
        if len(store) and store.dim != dim:  # the token store of a dataset without captions is empty
            raise ValueError(
                f"The model package {package.name} reads {kind} of {dim:,} numbers, but {store.folder} has "
                f"{store.dim:,}. Extract them with the extractors of the package."
            )
    for _ in verify_package(package):
        pass
    model = _load_package_model(package, text)
    card = ModelCard(
        fingerprint=folder.name.removeprefix("tern-"),
        checkpoint=package.name,
        sha256=package.digest,
        model=config.model,
        region_dim=config.region_dim,
        token_dim=config.token_dim,
        **recipes,
        fine_tuned=config.fine_tuned,
        alignment_weight=config.alignment_weight,
        num_parameters=sum(p.numel() for p in model.parameters()),
    )
    files = {name: package.folder / name for name in (PACKAGE_CONFIG, METRICS)}
    if (calibration := package.find(CALIBRATION)) is not None:
        read_calibration(package.folder)  # raises if it is damaged
        files[CALIBRATION] = calibration
    write_model_folder(folder, model, card, files)
    return folder


def _load_package_model(package: ModelPackage, text: Callable[[], nn.Module]) -> nn.Module:
    config, path = package.config, package.folder / WEIGHTS
    with torch.device("meta"):  # without memory: whether the sizes fit to the file is not known yet
        expected = build_model(config.model, config.region_dim, config.token_dim).state_dict()
    try:
        _check_header(path, expected, config)
        state = load_file(path)
        encoder = text() if config.fine_tuned else None
        if encoder is not None:
            _check_header(package.folder / TEXT_ENCODER, encoder.state_dict(), config)
            inner = {INNER + name: value for name, value in state.items()}
            state = inner | {ENCODER + name: value for name, value in load_file(package.folder / TEXT_ENCODER).items()}
        model = build_trainable(config.model, config.region_dim, config.token_dim, encoder)
        model.load_state_dict({name: _to_float(value) for name, value in state.items()})
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"The weights of {package.folder} do not fit to its config.json: {error}. Copy or download the package "
            "again."
        ) from error
    return model.eval()


def _check_header(path: Path, expected: Mapping[str, Tensor], config: PackageConfig) -> None:
    """Compare names, shapes and number types in the header of a file with those of a network."""
    is_half = config.weights_dtype == "float16"
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        if other := sorted(names ^ expected.keys()):
            raise ValueError(f"{path.name} has other weights than the network, the first is {other[0]!r}")
        for name in sorted(names):
            part = file.get_slice(name)
            shape, known = tuple(part.get_shape()), expected[name]
            dtype = "F16" if is_half and _is_halved(known) else DTYPES.get(known.dtype, "")
            if shape != tuple(known.shape) or part.get_dtype() != dtype:
                raise ValueError(
                    f"{path.name} has {name!r} as {part.get_dtype()} {shape}, but {dtype} {tuple(known.shape)} is "
                    "expected"
                )


def _is_halved(value: Tensor) -> bool:
    """Return whether a weight is stored in float16: matrices are; biases, means and deviations need the range."""
    return value.is_floating_point() and value.ndim >= 2


def _to_float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
