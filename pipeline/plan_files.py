"""Files of plans: finds the shipped ones and reads the text of one, without importing any settings."""

import os
from pathlib import Path

from data.text import suggest_name

MAX_PLAN_BYTES = 1 << 20
_FOLDER = Path(__file__).parent / "plans" / "toml"


def shipped_plans() -> dict[str, Path]:
    """Map the names of the plans that come with this package to their files."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def read_plan_title(path: Path) -> str:
    """Read the comment in the first line of a shipped plan."""
    with open(path, encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def read_plan_text(name: str) -> tuple[Path, str]:
    """Read the text of a plan.

    Args:
        name: Path that ends in `.toml`, or name of a shipped plan.

    Returns:
        The path and the text of the plan.

    Raises:
        FileNotFoundError: The plan does not exist.
        IsADirectoryError: The path is a folder.
        ValueError: The file has more than `MAX_PLAN_BYTES` bytes, or is not UTF-8 text.
    """
    path = Path(os.path.expanduser(name)) if name.endswith(".toml") else shipped_plans().get(name)
    if path is not None and path.is_dir():
        raise IsADirectoryError(f"The plan {path} is a folder. Pass the path of a .toml file.")
    if path is None or not path.is_file():
        hint = suggest_name(name, shipped_plans(), "shipped plans are")
        raise FileNotFoundError(f"Plan {name!r} does not exist. Pass a .toml file or the name of a plan; {hint}.")
    if (size := path.stat().st_size) > MAX_PLAN_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; a plan has at most {MAX_PLAN_BYTES:,}. Pass another file.")
    try:
        return path, path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"The plan {path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
