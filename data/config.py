"""Config of `data`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class DatasetConfig(BaseModel):
    """Where a dataset lies.

    `karpathy`: `annotations` is a Karpathy JSON, `images` the folder its file names are relative to.
    `folder`: `annotations` is a .jsonl or .csv with the fields image, caption (or captions) and, if you like, split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    format: Literal["karpathy", "folder"] = "karpathy"
    annotations: Path
    images: Path


class DemoConfig(BaseModel):
    """Which scenes to draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(2020, ge=0)  # scenes of two seeds have nothing in common
    images: int = Field(1200, ge=1)  # pictures, five captions each
    splits: dict[str, int] = {"train": 1000, "val": 100, "test": 100}  # pictures a split, in the order of their number

    def model_post_init(self, context: Any) -> None:
        """Refuse splits that do not add up."""
        if sum(self.splits.values()) != self.images or min(self.splits.values(), default=0) < 0:
            raise ValueError(f"splits {self.splits} must add up to images = {self.images}; change one of them")

    def split_of(self, index: int) -> str:
        """The split of a scene by its number."""
        for name, size in self.splits.items():
            if index < size:
                return name
            index -= size
        raise ValueError(f"there is no scene {index}; the config has {self.images}")


class RegionFileConfig(BaseModel):
    """Which file, and which of its arrays stand side by side as the feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    feature_arrays: tuple[str, ...] = Field(min_length=1)  # names of the arrays, joined in this order
    normalize: bool = True  # the rows of each array to unit length, so that none drowns the others


@dataclass(frozen=True)
class ReadOptions:
    """What a file may leave open."""

    transposed: bool | None = None  # x of a per-image npz is (d, r); None is to be told from the file
    arrays: tuple[str, ...] = ()  # of a file of flat rows: the arrays that stand side by side as the feature
    normalize: bool = False  # each of those to unit length
    allow_pickle: tuple[str, ...] = ()  # arrays of a npz that may be a pickle of plain values


class ImportConfig(BaseModel):
    """What is imported, and how what the format leaves open is to be taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Path, ...] = Field(min_length=1)
    format: str = "auto"
    name: str = ""  # of the features, in the recipe: imports of one name grow one store; "" is the sources' file names
    id_template: str = "{id}"  # template, see data/formats/names.py
    float16: bool = False  # features in float16; else float32, as the files have them
    images: Path | None = None  # folder of the photographs, for formats without image sizes
    sizes: Literal["images", "boxes"] = "images"  # `boxes`: the image ends where its last box does (a guess)
    boxes: Literal["file", "image"] = "file"  # `image`: every row is given the whole image, where a format has no boxes
    options: ReadOptions = ReadOptions()
    classes: Path | None = None  # text, one name a line: what class ids stand for
    attributes: Path | None = None
    images_per_shard: int = Field(500, ge=1)  # 150 MB in float32 at 36 rows of 2,048
