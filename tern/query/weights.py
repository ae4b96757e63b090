"""Tensors of safetensors files as arrays, for the graphs whose weights they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from tern.query.record import TensorRef


def read_tensors(refs: Mapping[str, TensorRef], paths: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Read the tensors of a graph.

    Args:
        refs: Tensors by the name of the initializer.
        paths: Path of each file that `refs` names.

    Returns:
        Arrays by the name of the initializer; float16 becomes float32.

    Raises:
        ValueError: A file is damaged or lacks a tensor.
    """
    arrays: dict[str, np.ndarray] = {}
    for file in sorted({ref.file for ref in refs.values()}):
        names = {initializer: ref.name for initializer, ref in refs.items() if ref.file == file}
        by_name = _read_file(paths[file], set(names.values()))
        arrays |= {initializer: by_name[name] for initializer, name in names.items()}
    return arrays


def _read_file(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"The weights in {path} cannot be read: {error}. Restore the file.") from error
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else np.ascontiguousarray(array)
        for name, array in arrays.items()
    }
