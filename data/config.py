"""Settings of a dataset, of the demo dataset, and of region features from other software."""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

RERANKED_HITS = 100
"""Default number of best hits of a search that are ordered again with row vectors."""
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format and half characters, line separators


def expand_path(value: Any) -> Any:
    """Expand `~`, `~user`, `$NAME` and `${NAME}` in a path of a plan as a shell does; other types are returned.

    A path with `$` that exists as it is written is returned unchanged.

    Raises:
        ValueError: The path is empty, starts or ends with a blank, has a control character, or cannot be expanded.
    """
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text:
        raise ValueError("the path is empty. Write the path of a file or folder")
    if text != text.strip():
        raise ValueError("the path starts or ends with a blank. Remove it")
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text):
        raise ValueError("the path has a control character or a line break. Remove it")
    if "$" in text and not os.path.lexists(text):
        for found in _VARIABLE.finditer(text):
            if os.path.expandvars(found[0]) in ("", found[0]):
                raise ValueError(f"the variable {found[0]} of the path is not set. Set it, or write the path out")
        text = os.path.expandvars(text)
    if text.startswith("~"):
        user = text.partition("/")[0]
        home = os.path.expanduser(user)
        if not home.startswith("/") or (user == "~" and not os.path.expandvars("$HOME")):
            raise ValueError(f"{user} of the path names no home folder. Write the path out")
        text = os.path.expanduser(text)
    return text


def check_new_folder(path: Path) -> Path:
    """Check that the name of a folder to create is one that a user can mean, and can remove without a surprise.

    Raises:
        ValueError: A part of the path is `~`, starts with `-`, or has blanks at its ends, quotes, patterns of a shell,
            backslashes or invisible characters, or the path is an address.
    """
    text = str(path)
    if re.match(r"[\w.+@-]+:/|[A-Za-z]:$|file:|//", text) or re.search(r"%\w+%", text) or "\\" in text:
        raise ValueError("it is an address or a path of another system, not a folder of this machine")
    for part in path.parts:
        if part != part.strip() or part[0] in "\"'`" or part[-1] in "\"'`":
            raise ValueError(f"its part {part!r} starts or ends with a blank or a quotation mark. Remove it")
        if part[0] in "~-" or set(part) & set("*?<>|{}$"):
            raise ValueError(f"its part {part!r} has another meaning for a shell. Choose another name")
        if any(unicodedata.category(character) in _INVISIBLE for character in part):
            raise ValueError(f"its part {part!a} has an invisible character. Choose another name")
    return path


PlanPath = Annotated[Path, BeforeValidator(expand_path)]
"""Path of an existing file or folder in a plan; a relative one starts in the current folder."""
NewFolder = Annotated[Path, BeforeValidator(expand_path), AfterValidator(check_new_folder)]
"""Path of a folder that this program creates."""


def expand_name_or_path(value: Any) -> Any:
    """Expand a text that is a name or a path, as `expand_path` does; an empty one is returned."""
    return expand_path(value) if value else value


NameOrPath = Annotated[str, BeforeValidator(expand_name_or_path)]
"""Name of a model or of weights, or path of a file or folder."""


def check_glob(pattern: str) -> str:
    """Check that a pattern selects paths below a folder.

    Raises:
        ValueError: It is empty or absolute, or has a part `..` or a backslash.
    """
    if not pattern.strip("/") or pattern.startswith("/") or ".." in pattern.split("/") or "\\" in pattern:
        raise ValueError("it is not a pattern of paths below `images`. Write one such as *.jpg or holidays/**")
    return pattern


Glob = Annotated[str, AfterValidator(check_glob)]
"""Pattern of paths below a folder; see `data.text.compile_globs`."""


ColumnType = Literal["text", "number", "date", "texts"]  # of a column of the user's own; `texts` is a list


class SettingsTable(BaseModel):
    """Base of the tables of a plan: unknown settings, and numbers that are booleans or not finite, are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_no_boolean_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean in the place of a number: pydantic would read `workers = true` as 1."""
        kinds = set(_list_kinds(cls.model_fields[str(info.field_name)].annotation))
        if bool not in kinds and kinds & {int, float} and _has_boolean(value):
            raise ValueError("true and false are not numbers. Write a number")
        return value


def _list_kinds(annotation: Any) -> list[Any]:
    """List the types that an annotation is made of, such as int and float for `tuple[int, float]`."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in _list_kinds(part)] if parts else [annotation]


def _has_boolean(value: Any) -> bool:
    if isinstance(value, list | tuple | dict):
        return any(map(_has_boolean, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


class DatasetConfig(SettingsTable):
    """Location and format of a dataset: a folder of images, with or without captions."""

    name: str
    """Name of the dataset, for messages and reports."""
    format: Literal["karpathy", "folder"] | None = None
    """Format of the annotations: a Karpathy JSON file, or a .jsonl or .csv file with image, caption(s) and split; None:
    `karpathy`."""
    annotations: PlanPath | None = None
    """Path of the annotation file; None: the images of the folder and its subfolders, without captions."""
    images: PlanPath
    """Folder of the images; file names in the annotations are relative to it."""
    include: tuple[Glob, ...] = ()
    """Patterns of the images to take, such as `*.jpg` or `holidays/**`, upper or lower case; empty: all."""
    exclude: tuple[Glob, ...] = ()
    """Patterns of images and folders to leave out, such as `thumbnails` or `2019/raw/*`, upper or lower case."""
    max_depth: int | None = Field(None, ge=1)
    """Levels of folders that are searched: 1 is the folder `images` without its subfolders; None: all."""
    columns: dict[str, ColumnType | Literal["ignore"]] = {}
    """Types of columns of your own: `text`, `number`, `date`, `texts` (a list) or `ignore`; others are inferred."""

    def model_post_init(self, context: Any) -> None:
        """Check that the settings that choose among images, and the format, have a use.

        Raises:
            ValueError: One of them has none.
        """
        if self.annotations is None and self.format is not None:
            raise ValueError(
                f"format is {self.format!r}, but annotations is not set. Set annotations, or remove format: a folder "
                "of images without captions needs neither"
            )
        selecting = [name for name in ("include", "exclude", "max_depth") if getattr(self, name)]
        if selecting and self.annotations is not None and self.format != "folder":
            raise ValueError(
                f"{' and '.join(selecting)} cannot be used with format = 'karpathy', which lists all images"
            )


class DemoConfig(SettingsTable):
    """Scenes of the demo dataset."""

    seed: int = Field(2020, ge=0, lt=2**31)
    """Random seed of the scenes; two seeds have no scene in common."""
    images: int = Field(1400, ge=1)
    """Number of images; each has five captions."""
    splits: dict[Literal["train", "val", "test"], int] = {"train": 1000, "val": 100, "test": 300}
    """Number of images per split, in the order of the scenes; the sum must be `images`."""

    def model_post_init(self, context: Any) -> None:
        """Check that the splits add up.

        Raises:
            ValueError: They do not.
        """
        if sum(self.splits.values()) != self.images or min(self.splits.values(), default=0) < 0:
            raise ValueError(f"splits {self.splits} must add up to images = {self.images}. Change one of them.")

    def split_of(self, index: int) -> str:
        """Return the split of a scene.

        Raises:
            ValueError: There is no scene of this number.
        """
        first = 0
        for name, size in self.splits.items():
            first += size
            if index < first:
                return name
        raise ValueError(f"Scene {index} does not exist; the demo dataset has {self.images} scenes.")


class RegionFileConfig(SettingsTable):
    """A .npz file of region features that replaces an extractor."""

    path: PlanPath
    """Path of the file."""
    feature_arrays: tuple[str, ...] = Field(min_length=1)
    """Names of the arrays that are concatenated, in this order, to the feature."""
    normalize: bool = True
    """Whether the rows of each array are scaled to unit length, so that no array dominates the others."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read what a format of region features leaves open."""

    transposed: bool | None = None
    """Whether the array x of a per-image .npz is (d, r); None detects it."""
    arrays: tuple[str, ...] = ()
    """Names of the feature arrays of a flat .npz; empty if there is only one."""
    normalize: bool = False
    """Whether the rows of each feature array are scaled to unit length."""
    allow_pickle: tuple[str, ...] = ()
    """Names of arrays of a .npz that may be a pickle of plain values."""


class ImportConfig(SettingsTable):
    """Sources of an import of region features, and what their format leaves open."""

    sources: tuple[Path, ...] = Field(min_length=1)
    """Files, folders or prefixes of folders."""
    format: str = "auto"
    """Name of the format; `auto` detects it."""
    name: str = ""
    """Name of the features: imports with the same name extend one store; empty means the paths of the sources."""
    id_template: str = "{id}"
    """Template of the image ids, see data/formats/names.py."""
    float16: bool = False
    """Whether features are stored in float16 instead of float32."""
    images: Path | None = None
    """Folder of the images, for formats without image sizes; None if there is none."""
    sizes: Literal["images", "boxes"] = "images"
    """Source of missing image sizes: the image files, or the last box edge, which is a guess."""
    boxes: Literal["file", "image"] = "file"
    """Source of boxes: the file, or, for formats without boxes, the whole image."""
    options: ReadOptions = ReadOptions()
    """How to read the files."""
    classes: Path | None = None
    """Text file with the names of the class ids, one per line; None if they are unknown."""
    attributes: Path | None = None
    """Text file with the names of the attribute ids, one per line; None if they are unknown."""
    images_per_shard: int = Field(500, ge=1)
    """Maximum number of images per shard, of which the rows of at most 256 MB; 500 images of 36 rows of 2,048 float32
    numbers have 150 MB."""
