"""SHA-256 of files and texts, and the digests that name folders."""

import hashlib
import json
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # bytes hashed at a time, so that memory does not grow with the file


def sha256_file(path: Path) -> str:
    """Compute the hex SHA-256 of a file, block by block."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Compute the hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_text(text: str) -> str:
    """Compute the hex SHA-256 of the UTF-8 bytes of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest(obj: Any) -> str:
    """Compute 12 hex digits that name a JSON-serializable object: equal content gives equal digits."""
    canonical = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    return sha256_text(canonical)[:12]
