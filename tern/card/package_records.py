"""Records of a model package: the content of its `config.json` and `extractors.json`, and the names of its files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, StringConstraints, field_validator

from data.io import check_limit
from data.manifest import Recipe
from tern.card.model_card import NETWORK_VERSION
from tern.config import ModelConfig

PACKAGE_CONFIG = "config.json"
WEIGHTS = "model.safetensors"
EXTRACTORS = "extractors.json"
TEXT_ENCODER = "text-encoder.safetensors"
DETECTOR = "detector.safetensors"
CALIBRATION = "calibration.safetensors"
METRICS = "metrics.json"
README = "README.md"
REQUIRED_FILES = (WEIGHTS, EXTRACTORS, METRICS, README)
QUERY_RECORD, CAPTIONS_GRAPH, IMAGES_GRAPH, TOKENIZER = "query.json", "captions.onnx", "images.onnx", "tokenizer.json"
QUERY_FILES = (CAPTIONS_GRAPH, IMAGES_GRAPH, TOKENIZER, QUERY_RECORD)  # see `tern.query`
FILE_NAMES = (*REQUIRED_FILES, TEXT_ENCODER, DETECTOR, CALIBRATION, *QUERY_FILES)  # that `config.json` may list
PACKAGE_FILES = (PACKAGE_CONFIG, *FILE_NAMES)

FORMAT: Literal["tern-model-package"] = "tern-model-package"
PACKAGE_SCHEMA: Literal[3] = 3  # of `config.json` and `extractors.json`; raise it when their keys change
# A package of schema 1 has no query side, and one of schema 2 no row vectors.
READABLE_PACKAGES = (1, 2, PACKAGE_SCHEMA)
MAX_FILE_BYTES = 4 << 30  # of one file of weights
MAX_DIM = 1 << 16  # of a feature or a layer: a recipe of three maps side by side has 6,144
MAX_LAYERS = 256

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Dim = Annotated[int, Field(ge=1, le=MAX_DIM)]


class _PackageRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PackageFile(_PackageRecord):
    """What the bytes of a file must be."""

    sha256: Sha256
    """SHA-256 of the file, 64 hex digits."""
    bytes: Annotated[NonNegativeInt, Field(le=MAX_FILE_BYTES)]
    """Size of the file, in bytes."""


class PackageOrigin(_PackageRecord):
    """Where the weights come from."""

    program: str = ""
    """Version of this program that wrote the package."""
    model: str = ""
    """Name of the model in its workspace."""
    dataset: str = ""
    """Name of the dataset that the model was trained on; empty if it is not known."""
    images: dict[str, int] = {}
    """Number of images of each split of this dataset."""
    captions: int = 0
    """Number of captions of this dataset."""
    epoch: int | None = None
    """Epoch of the weights, from 1; None if they were not trained by this program."""
    training: dict[str, Any] | None = None
    """Settings of the training, as the table `[train]` has them; None as above."""
    checkpoint: str | None = None
    """Name of the checkpoint or package that the weights were imported from; None if they were trained."""
    sha256: str | None = None
    """SHA-256 of that checkpoint, or digest of that package."""


class PackageConfig(_PackageRecord):
    """Content of `config.json`."""

    schema_: Literal[1, 2, 3] = Field(PACKAGE_SCHEMA, alias="schema")
    """Version of the fields of a package."""
    format: Literal["tern-model-package"] = FORMAT
    """Name of the format."""
    network: int = NETWORK_VERSION
    """Version of the network: of the names and shapes of its weights, and of what it computes."""
    model: ModelConfig
    """Shape of the network."""
    region_dim: Dim
    """Features per region."""
    token_dim: Dim
    """Features per token."""
    fine_tuned: bool
    """Whether the package has a text encoder of its own."""
    alignment_weight: float = Field(0, ge=0, le=1)
    """As in the card of a model; 0 for a model without row vectors."""
    num_parameters: NonNegativeInt
    """Number of parameters, with those of the text encoder."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Number type of the stored matrices; other weights are float32, and all are used in float32."""
    origin: PackageOrigin = PackageOrigin()
    """Where the weights come from."""
    files: dict[str, PackageFile]
    """Size and hash of every other file of the package, by name."""

    @field_validator("model")
    @classmethod
    def _check_sizes(cls, model: ModelConfig) -> ModelConfig:
        dims = {
            name: getattr(model, name) for name in ("width", "heads", "feedforward_dim", "embed_dim", "alignment_dim")
        }
        layers = {name: getattr(model, name) for name in ("visual_layers", "text_layers", "shared_layers")}
        for sizes, limit in ((dims, MAX_DIM), (layers, MAX_LAYERS)):
            for name, size in sizes.items():
                check_limit(name, size, limit, "units")
        return model

    @field_validator("files")
    @classmethod
    def _check_files(cls, files: dict[str, PackageFile]) -> dict[str, PackageFile]:
        if unknown := sorted(set(files) - set(FILE_NAMES)):
            raise ValueError(f"{unknown[0]!r} is not the name of a file of a package")
        if missing := [name for name in REQUIRED_FILES if name not in files]:
            raise ValueError(f"{missing[0]} is not listed")
        return files


class PackagePath(_PackageRecord):
    """A setting of an extractor that is a path on the machine that wrote the package."""

    name: str
    """Name of the file or folder there, without its folder."""
    file: Literal["detector.safetensors"] | None = None
    """Copy of the file in the package; None if the plan must set the path."""


class PackageExtractor(_PackageRecord):
    """An extractor that the model reads features of."""

    settings: dict[str, Any] | None
    """Settings of the extractor, without those of a machine and without paths; None if another program extracted."""
    paths: dict[str, PackagePath] = {}
    """Settings that are paths, by name."""
    recipe: Recipe
    """Full recipe of the store that the model was trained on."""
    weights_sha256: Sha256 | None
    """SHA-256 of the tensors of the extractor; None if it is not known."""
    source: str
    """Where the weights of the extractor come from: a name, or the name of a file."""


class PackageExtractors(_PackageRecord):
    """Content of `extractors.json`."""

    regions: PackageExtractor
    """Extractor of the region features."""
    text: PackageExtractor
    """Extractor of the token features."""
