"""`tern photos` in this process, and small photographs for it: drawn, each with a content of its own."""

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.app import build_app


def draw_photo(path: Path, seed: int, side: int = 48) -> Path:
    """Write a small JPEG of blurred noise whose content the seed determines."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((side, side + seed % 7), Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
    return path


def draw_folder(folder: Path, count: int) -> Path:
    """Write photographs into a folder and two of its subfolders. Returns the folder."""
    for seed in range(count):
        draw_photo(folder / ("", "a", "a/b")[seed % 3] / f"{seed:03d}.jpg", seed)
    return folder


def run_photos(*words: object) -> tuple[int, str]:
    """Run `tern photos WORDS` in this process; return the exit code and all output, or the message of the error."""
    result = CliRunner().invoke(build_app(), ["photos", "--workers", "1", *map(str, words)] if words else ["photos"])
    error = result.exception
    message = f"{type(error).__name__}: {error}" if error and not isinstance(error, SystemExit) else ""
    return result.exit_code, result.output + message


def list_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Map all paths below a folder to size and time of change."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}
