"""Query sides of equal models, exported once for all processes of a test run: an export takes three seconds of CPU."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from extractors.config import TextConfig
from pipeline.stages.query_side import write_query_side
from tern.card import QUERY_FILES


def share_query_sides(patch: pytest.MonkeyPatch, shared: Path) -> None:
    """Let the stages copy the query side of a model from `shared` if one with equal weights was exported before."""
    shared.mkdir(exist_ok=True)

    def write_or_copy(folder: Path, model: Any, text: TextConfig, weights: Sequence[str]) -> None:
        settings = f"{type(model)} {model.config} {text!r} {weights}".encode()
        key = hashlib.sha256(settings + b"".join((folder / name).read_bytes() for name in weights)).hexdigest()
        if not (shared / key).is_dir():
            write_query_side(folder, model, text, weights)
            copied = Path(tempfile.mkdtemp(dir=shared))
            _copy_files(folder, copied)
            with suppress(OSError):  # another process was faster
                copied.rename(shared / key)
            return
        _copy_files(shared / key, folder)

    for name in ("pipeline.stages.query_side", "pipeline.runs.export.folder"):
        if name in sys.modules:  # a module that is imported later has it from the first
            patch.setattr(sys.modules[name], "write_query_side", write_or_copy)


def _copy_files(source: Path, target: Path) -> None:
    for name in QUERY_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
