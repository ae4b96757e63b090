"""Weights on disk: read without unpickling, fitted with an error that names the key, and hashed."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data.unpickle import load_restricted

MAX_PICKLE_BYTES = 2 << 30  # the classic model has 0.26 GB
SUFFIXES = (
    ".safetensors",
    ".pth",
    ".pt",
    ".bin",
    ".pkl",
)  # of the files that can be read; anything else is a published name


def load_state_dict_file(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by name, and the class names a safetensors header may carry under "classes" (JSON), else ().

    A `.pth` or `.bin` file is read with `weights_only=True`, a `.pkl` (detectron2's) by a reader that knows arrays and
    plain values alone; a checkpoint `{"model": ...}` is opened to its weights. Raises FileNotFoundError and ValueError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give a file, or the name of weights that torchvision publishes")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights {path} end in {path.suffix!r}: give a .safetensors, .pth, .pt, .bin or .pkl file")
    try:
        state, classes = _read(path)
    except Exception as error:  # a damaged file raises whatever its reader trips over
        raise ValueError(f"weights {path} cannot be read ({error}): fetch or save them again") from error
    wrong = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ValueError(f"{path} is not a state dict: {wrong[0]!r} is no tensor; save model.state_dict()")
    return state, classes


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """The header's texts of a safetensors file. Raises FileNotFoundError, ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable .safetensors file ({error}): fetch or convert it again") from error


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            classes = json.loads((file.metadata() or {}).get("classes", "[]"))
            return {key: file.get_tensor(key) for key in sorted(file.keys())}, tuple(classes)
    if path.suffix == ".pkl":
        return _arrays(load_restricted(path, MAX_PICKLE_BYTES)), ()
    _check_size(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class|global) [`']?([\w.]+)", str(error))
        what = f"{named[1]}, which is no tensor" if named else "more than tensors and plain values"
        raise ValueError(f"it holds {what}; in the software it is from, save its state_dict() alone") from error
    return dict(_opened(state)), ()


def _opened(content: Any) -> Any:
    """The state dict inside a checkpoint that holds more: epoch, optimizer and so on."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content


def _check_size(path: Path) -> None:
    """ValueError for a file that would grow in memory: torch stores its zip entries as they are."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("its entries are compressed, as torch writes none: it is not a checkpoint of torch's")


def _arrays(content: Any) -> dict[str, Tensor]:
    """The tensors of what detectron2 pickles: `{"model": {name: array}, "__author__": ..., ...}`."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not arrays by name")
    if content.get("matching_heuristics"):
        raise ValueError("its names are Caffe2's, which detectron2 guesses at: save it once as model.state_dict()")
    named = {key: value for key, value in _opened(content).items() if not isinstance(value, str | bool | int | None)}
    odd = next((key for key, value in named.items() if not isinstance(value, np.ndarray)), None)
    if odd is not None:
        raise ValueError(f"{odd!r} is a {type(named[odd]).__name__}, not an array")
    found = {key: np.asarray(value) for key, value in named.items()}
    return {key: torch.from_numpy(value.copy()) for key, value in found.items()}


def load_state_dict_strict(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` into `model`, cast to its dtypes; ValueError names the first key that does not fit."""
    for key, parameter in model.state_dict().items():
        if key not in state and not key.endswith("num_batches_tracked"):
            raise ValueError(f"weights {source} lack {key!r} {tuple(parameter.shape)}: they are of another model")
        if key in state and state[key].shape != parameter.shape:
            raise ValueError(
                f"weights {source} do not fit: {key!r} is {tuple(state[key].shape)} in the file and "
                f"{tuple(parameter.shape)} in the model; choose the model they were trained for"
            )
    unknown = sorted(set(state) - set(model.state_dict()))
    if unknown:
        raise ValueError(f"weights {source} hold {unknown[0]!r}, which the model lacks: they are of another model")
    # Frozen batch norms, which torchvision's files come from, keep no count of batches.
    model.load_state_dict(state, strict=False)


def state_sha256(model: nn.Module, more: dict[str, Tensor] | None = None) -> str:
    """Hex sha256 of names, dtypes, shapes and bytes: one hash for the same weights (and `more`), whatever the file."""
    whole = hashlib.sha256()
    for key, value in sorted({**model.state_dict(), **(more or {})}.items()):
        if not key.endswith("num_batches_tracked"):
            whole.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()
