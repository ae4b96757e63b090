"""Digests of `data`."""

import hashlib
import json
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # bytes hashed at a time, so that memory does not grow with the file


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest(obj: Any) -> str:
    """12 hex digits that name a JSON-able object: equal content gives an equal name on every machine."""
    canonical = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    return sha256_text(canonical)[:12]
