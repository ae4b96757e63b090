"""Files of plans: finds that of a name or a folder and reads its text, without importing any settings."""

import os
import re
import shlex
from pathlib import Path

from data.io import sha256_text
from data.text import suggest_name

MAX_PLAN_BYTES = 1 << 20
MAX_NAME_CHARACTERS = 40  # of a folder, in the name of its plan
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
        name: Path that ends in `.toml`, name of a shipped plan, or a folder that `tern photos` has indexed.

    Returns:
        The path and the text of the plan.

    Raises:
        FileNotFoundError: The plan does not exist, or the folder is not indexed.
        IsADirectoryError: The path is a folder.
        ValueError: The file has more than `MAX_PLAN_BYTES` bytes, or is not UTF-8 text.
    """
    path = find_plan(name)
    if (size := path.stat().st_size) > MAX_PLAN_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; a plan has at most {MAX_PLAN_BYTES:,}. Pass another file.")
    try:
        return path, path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"The plan {path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def find_plan(name: str) -> Path:
    """Return the file of a plan; see `read_plan_text`."""
    path = shipped_plans().get(name, Path(os.path.expanduser(name)))
    if not name.endswith(".toml") and name not in shipped_plans() and name and path.is_dir():
        return _find_folder_plan(path)
    if name.endswith(".toml") and path.is_dir():
        raise IsADirectoryError(f"The plan {path} is a folder. Pass the path of a .toml file.")
    if path.suffix != ".toml" or not path.is_file():
        hint = suggest_name(name, shipped_plans(), "shipped plans are")
        raise FileNotFoundError(f"Plan {name!r} does not exist. Pass a .toml file or the name of a plan; {hint}.")
    return path


def locate_plan(name: str) -> str:
    """Return a name of a plan that holds in every folder: that of a shipped plan, or the absolute path of its file."""
    return name if name in shipped_plans() else str(find_plan(name).resolve())


def _find_folder_plan(folder: Path) -> Path:
    """Return the plan that `tern photos` has written for a folder."""
    if not (path := find_plan_file(folder)).is_file():
        raise FileNotFoundError(
            f"The folder {folder} has no plan: `tern photos` has not indexed it. Run `tern photos "
            f"{shlex.quote(str(folder))}`, or pass a .toml file or the name of a plan."
        )
    return path


def list_root() -> Path:
    """Return the folder of the plans and of the workspaces that have no other place; it need not exist."""
    from data.settings import find_data_folder  # lazy: it imports pydantic, which `tern plans` does without

    return find_data_folder() / "photos"


def find_plan_file(images: Path) -> Path:
    """Return the path of the plan of a folder of photographs; it need not exist.

    Its name has the name of the folder, and a digest of its path, since two folders may have one name.
    """
    path = resolve_path(images)
    words = re.sub(r"[^\w.-]+", "-", path.name)[:MAX_NAME_CHARACTERS].strip(".-") or "photos"
    return list_root() / f"{words}-{sha256_text(str(path))[:8]}.toml"


def resolve_path(path: Path) -> Path:
    """Return the absolute path without links; the last parts may be missing, and a loop of links stays as it is."""
    return Path(os.path.realpath(path.expanduser()))
