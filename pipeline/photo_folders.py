"""Folders of photographs that `tern photos` indexes: where the plan and the workspace of each one are.

The plan of a folder is a file in the user's data folder, so that the file is also the entry of the folder in the list
of all of them, wherever its workspace is. No settings are imported: the list starts as fast as `tern --help`.
"""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.io import write_text
from pipeline.plan_files import find_plan_file, list_root

DEFAULT_MODEL = "photos"


@dataclass(frozen=True)
class PhotoFolder:
    """One folder of photographs, and what its plan says."""

    images: Path
    """The folder, absolute and without links."""
    workspace: Path
    """Folder of everything that is made from it."""
    model: str = DEFAULT_MODEL
    """Model package: name of a shipped one, folder, or name on the Hugging Face hub."""
    include: tuple[str, ...] = ()
    """Patterns of the paths to index; all if empty."""
    exclude: tuple[str, ...] = ()
    """Patterns of the paths to leave out."""

    @property
    def plan_file(self) -> Path:
        """Path of the plan of the folder; it need not exist."""
        return find_plan_file(self.images)

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.images.name or "photos"


def default_workspace(images: Path) -> Path:
    """Return the workspace of a folder of photographs for which none is named."""
    return find_plan_file(images).with_suffix("")


def read_photo_folder(plan_file: Path) -> PhotoFolder:
    """Read what the plan of a folder of photographs says.

    Raises:
        FileNotFoundError: The folder has no plan: it was never indexed.
        ValueError: The file is not such a plan.
    """
    try:
        content = tomllib.loads(plan_file.read_text(encoding="utf-8"))
        dataset = content["dataset"]
        return PhotoFolder(
            Path(dataset["images"]),
            Path(content["workspace"]),
            str(content["model"]),
            tuple(map(str, dataset.get("include", ()))),
            tuple(map(str, dataset.get("exclude", ()))),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{plan_file} is not the plan of a folder of photographs ({type(error).__name__}: {error}). Remove the "
            "file and run `tern photos FOLDER` again, with the same --workspace if it had one."
        ) from error


def check_workspace(folder: PhotoFolder) -> None:
    """Raise ValueError if the workspace of a folder of photographs is that of another one."""
    for plan_file in list_plan_files():
        try:
            other = read_photo_folder(plan_file)
        except (OSError, ValueError):  # the list reports it
            continue
        if other.images != folder.images and other.workspace == folder.workspace:
            raise ValueError(
                f"The workspace {folder.workspace} is that of the photographs in {other.images}, which would be "
                "removed from it. Pass another --workspace."
            )


def format_photo_plan(folder: PhotoFolder) -> str:
    """Return the text of the plan of a folder of photographs."""
    lines = [
        "# Written by `tern photos`, which writes it again when its options change.",
        f"workspace = {_quote(str(folder.workspace))}",
        f"model = {_quote(folder.model)}",
        "",
        "[dataset]",
        f"name = {_quote(folder.name)}",
        f"images = {_quote(str(folder.images))}",
        *(f"{name} = [{', '.join(map(_quote, globs))}]" for name, globs in _list_globs(folder)),
    ]
    return "\n".join(lines) + "\n"


def write_photo_plan(folder: PhotoFolder) -> Path:
    """Write the plan of a folder of photographs, if the file does not say the same already. Returns its path."""
    text, path = format_photo_plan(folder), folder.plan_file
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return path


def list_plan_files() -> list[Path]:
    """List the plans of all folders of photographs that were indexed, by name."""
    return sorted(list_root().glob("*.toml"))


def _list_globs(folder: PhotoFolder) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from ((name, globs) for name in ("include", "exclude") if (globs := getattr(folder, name)))


def _quote(text: str) -> str:
    """Write a text as a basic string of TOML, which has the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
