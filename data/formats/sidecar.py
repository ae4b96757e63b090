"""The sidecar file of a VQA HDF5 file: image id -> row, as JSON, or as the pickle of the original converters."""

from pathlib import Path
from typing import Any

import numpy as np

from data.formats.names import parse_id
from data.io.files import read_json
from data.unpickle import load_restricted


def sidecar_paths(path: Path) -> list[Path]:
    """Return the possible paths of the sidecar file: JSON first."""
    return [path.with_name(f"{path.stem}_imgid2idx{suffix}") for suffix in (".json", ".pkl")]


def read_sidecar(path: Path) -> dict[str, int]:
    """Read image id -> row; of a pickle only plain values are read."""
    sidecar = next((p for p in sidecar_paths(path) if p.is_file()), None)
    if sidecar is None:
        names = " or ".join(p.name for p in sidecar_paths(path))
        raise FileNotFoundError(f"{path} has no image ids. Put {names} (image id -> row) into the same folder.")
    try:
        content = read_json(sidecar, "Write it again") if sidecar.suffix == ".json" else load_restricted(sidecar)
    except ValueError as error:
        raise ValueError(f"{sidecar} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{sidecar} is a {type(content).__name__}, not a dict of image id -> row. Write it again.")
    rows: dict[str, int] = {}
    for key, row in content.items():
        try:
            name = parse_id(key)
        except ValueError as error:
            raise ValueError(f"{sidecar}: {error}. Write the ids as text.") from error
        if not _is_integer(row) or name in rows:
            problem = f"has the row {row!r}, which is not a whole number" if name not in rows else "is there twice"
            raise ValueError(f"{sidecar} is not a dict of image id -> row: {name!r} {problem}. Write it again.")
        rows[name] = int(row)
    return rows


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
