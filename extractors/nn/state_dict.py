"""Read weights files without running pickled code, load them with errors that name the key, and hash them.

Used by all extractors, and by `tern weights`.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data.io import check_checkpoint
from data.unpickle import load_restricted
from extractors.config import SUFFIXES

MAX_PICKLE_BYTES = 2 << 30  # the file of the original bottom-up model has 0.26 GB


def load_state_dict_file(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the tensors of a weights file, and the class names in its header.

    A .pth, .pt or .bin file is read with `weights_only=True`, and a .pkl file (detectron2's format) by a reader that
    accepts only arrays and plain values. Of a checkpoint `{"model": ...}` or `{"state_dict": ...}` the weights are
    returned.

    Returns:
        Tensors by parameter name, and the class names that a .safetensors header lists under "classes" (JSON); ()
        without them.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is unknown, the file is damaged, or it contains anything else than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"The weights file {path} does not exist. Set `regions.weights` to a file, or to a name of weights "
            "that torchvision publishes."
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"The weights file {path} ends in {path.suffix!r}. Set `regions.weights` to a .safetensors, .pth, .pt, "
            ".bin or .pkl file."
        )
    try:
        state, classes = _read(path)
    except Exception as error:  # a damaged file raises any exception of its reader
        raise ValueError(f"The weights file {path} cannot be read ({error}). Download or save it again.") from error
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} is not a state dict: {key!r} is not a tensor. Save model.state_dict().")
    try:
        check_checkpoint(path, (value.nbytes for value in state.values()))
    except ValueError as error:
        raise ValueError(f"The weights file {path} cannot be read ({error}). Download or save it again.") from error
    return state, classes


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """Read the text entries in the header of a .safetensors file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a readable .safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The weights file {path} does not exist. Pass the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable .safetensors file ({error}). Download or convert it again."
        ) from error


def parse_names(value: str, key: str, path: Path) -> tuple[str, ...]:
    """Parse the names in an entry of a header: a JSON list of texts.

    Raises:
        ValueError: The entry holds something else.
    """
    try:
        names = json.loads(value)
    except (ValueError, RecursionError) as error:  # nested too deeply
        raise ValueError(f"{path}: {key} is not a JSON list ({error}). Convert the original file again.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: {key} must be a list of texts. Convert the original file again.")
    return tuple(names)


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            classes = parse_names((file.metadata() or {}).get("classes", "[]"), "classes", path)
            return {key: file.get_tensor(key) for key in sorted(file.keys())}, classes
    if path.suffix == ".pkl":
        return _to_tensors(load_restricted(path, MAX_PICKLE_BYTES)), ()
    check_checkpoint(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"(?:GLOBAL|class|global) [`']?([\w.]+)", str(error))
        content = f"{match[1]}, which is not a tensor" if match else "more than tensors and plain values"
        raise ValueError(
            f"it contains {content}; save only state_dict() with the software that wrote the file"
        ) from error
    return dict(_find_state_dict(state)), ()


def _find_state_dict(content: Any) -> Any:
    """Return the state dict inside a checkpoint that also contains an epoch, an optimizer and so on."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content


def _to_tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors of an object that detectron2 pickles.

    The object is `{"model": {name: array}, "__author__": ..., ...}`.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it contains a {type(content).__name__}, not arrays by name")
    if content.get("matching_heuristics"):
        raise ValueError(
            "its parameter names are those of Caffe2, which detectron2 matches by heuristics; load it in detectron2 "
            "and save model.state_dict()"
        )
    values = {
        key: value for key, value in _find_state_dict(content).items() if not isinstance(value, str | bool | int | None)
    }
    for key, value in values.items():
        if not isinstance(value, np.ndarray):
            raise ValueError(f"{key!r} is a {type(value).__name__}, not an array")
    arrays = {key: np.asarray(value) for key, value in values.items()}
    return {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}


def load_state_dict_strict(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict into a model and cast it to the dtypes of the model.

    Args:
        model: Model to load into, in place.
        state: Tensors by parameter name.
        source: File or name of the weights, for error messages.

    Raises:
        ValueError: A key is missing, unexpected or of another shape; the message names the first one.
    """
    for key, parameter in model.state_dict().items():
        if key not in state and not key.endswith("num_batches_tracked"):
            raise ValueError(
                f"The weights {source} lack {key!r} {tuple(parameter.shape)}. Set `model` to the model that they were "
                "trained for."
            )
        if key in state and state[key].shape != parameter.shape:
            raise ValueError(
                f"The weights {source} do not fit: {key!r} is {tuple(state[key].shape)} in the file and "
                f"{tuple(parameter.shape)} in the model. Set `model` to the model that they were trained for."
            )
    unknown = sorted(set(state) - set(model.state_dict()))
    if unknown:
        raise ValueError(
            f"The weights {source} contain {unknown[0]!r}, which the model does not have. Set `model` to the model "
            "that they were trained for."
        )
    # Frozen batch norms, with which torchvision's weights were trained, do not count batches.
    model.load_state_dict(state, strict=False)


def state_sha256(model: nn.Module, more: dict[str, Tensor] | None = None) -> str:
    """Compute the SHA-256 of the weights of a model.

    It does not depend on the file they were read from.

    Args:
        model: Model whose state dict is hashed: names, dtypes, shapes and bytes.
        more: Further tensors by name, such as buffers that the state dict omits.

    Returns:
        64 hex digits.
    """
    sha256 = hashlib.sha256()
    for key, value in sorted({**model.state_dict(), **(more or {})}.items()):
        if not key.endswith("num_batches_tracked"):
            sha256.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            sha256.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha256.hexdigest()
