"""Settings of a dataset, of the demo dataset, and of region features from other software."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class DatasetConfig(BaseModel):
    """Location and format of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the dataset, for messages and reports."""
    format: Literal["karpathy", "folder"] = "karpathy"
    """Format of the annotations: a Karpathy JSON file, or a .jsonl or .csv file with image, caption(s) and split."""
    annotations: Path
    """Path of the annotation file."""
    images: Path
    """Folder of the images; file names in the annotations are relative to it."""


class DemoConfig(BaseModel):
    """Scenes of the demo dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(2020, ge=0)
    """Random seed of the scenes; two seeds have no scene in common."""
    images: int = Field(1200, ge=1)
    """Number of images; each has five captions."""
    splits: dict[str, int] = {"train": 1000, "val": 100, "test": 100}
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


class RegionFileConfig(BaseModel):
    """A .npz file of region features that replaces an extractor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
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


class ImportConfig(BaseModel):
    """Sources of an import of region features, and what their format leaves open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
