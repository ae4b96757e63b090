"""The record `query.json` of the query side of a model, in the folder of the model or in a model package.

A graph has the structure of a network, and takes the weights from the files that hold them already: those of the model
and of the text model. The record is written last, so a folder without it has no query side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from data.io import describe_other_version, read_json, write_json
from data.text import describe_validation_error
from tern.card import NETWORK_VERSION, QUERY_RECORD

SCHEMA_VERSION: Literal[2] = 2  # of the record; raise it when its fields or the inputs of the graphs change
READABLE_SCHEMAS = (1, SCHEMA_VERSION)  # a record of schema 1 is of a model without row vectors
TEXT_SOURCE = "text"  # the weights of the text model, outside the folder
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,80}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorRef(_Record):
    """A tensor in a file of weights."""

    file: FileName
    """Name of the file in the folder of the model; "text" is the file of the text model."""
    name: str
    """Name of the tensor in the file; a float16 tensor is used in float32."""


class GraphRecord(_Record):
    """A graph whose weights are in other files."""

    sha256: Sha256
    """SHA-256 of the file of the graph."""
    tensors: dict[str, TensorRef]
    """Weights that the graph does not contain, by the name of the initializer."""


class TextModelRecord(_Record):
    """The text model that a model reads token features of."""

    model: str
    """Name or folder, as `text.model` of a plan."""
    weights: FileName
    """Name of the file of its weights."""
    sha256: Sha256
    """SHA-256 of that file."""


class QueryRecord(_Record):
    """Content of `query.json`."""

    schema_: Literal[1, 2] = Field(SCHEMA_VERSION, alias="schema")
    """Version of the fields."""
    network: int = NETWORK_VERSION
    """Version of the network that was exported."""
    captions: GraphRecord
    """Token ids to vectors: `token_ids` (n, l) int64, `mask` (n, l) bool -> `vectors` (n, e), `row_vectors` (n, l, k),
    `row_weights` (n, l)."""
    images: GraphRecord
    """Rows of regions to vectors: `features` (b, r, d) float16, `boxes` (b, r, 4) and `sizes` (b, 2) float32 in pixels,
    `mask` (b, r) bool, `scores` (b, r) float32 -> `vectors` (b, e), `row_vectors` (b, r, k), `row_weights` (b, r)."""
    files: dict[FileName, Sha256]
    """SHA-256 of the files of weights in the folder, by name."""
    text: TextModelRecord
    """The text model; its weights are not read if `captions` has none of its tensors."""
    tokenizer_sha256: Sha256
    """SHA-256 of tokenizer.json: of that in the folder, or else of that of the text model."""
    max_tokens: int = Field(ge=2, le=1 << 20)
    """Maximum number of tokens of a text, with [CLS] and [SEP]."""
    unknown_id: int | None
    """Token id of what the tokenizer does not know; None if it knows everything."""
    region_dim: int = Field(ge=1, le=1 << 20)
    """Features per region."""
    embed_dim: int = Field(ge=1, le=1 << 20)
    """Features of a vector."""
    alignment_dim: int = Field(0, ge=0, le=1 << 10)
    """Numbers of a row vector, a further output of both graphs; 0 for a model without row vectors."""


def has_query_side(folder: Path) -> bool:
    """Return whether a folder of a model has a query side."""
    return (Path(folder) / QUERY_RECORD).is_file()


def read_query_record(folder: Path) -> QueryRecord | None:
    """Read the record of the query side of a model; None if the model has none.

    Raises:
        ValueError: The record is damaged, or another version of this program wrote it.
    """
    path = Path(folder) / QUERY_RECORD
    if not path.is_file():
        return None
    content = read_json(path, "Run `tern index` again, which writes it again")
    if isinstance(content, dict):
        for what, value, readable in (
            ("schema", content.get("schema"), READABLE_SCHEMAS),
            ("network", content.get("network"), (NETWORK_VERSION,)),
        ):
            if value not in readable:
                raise ValueError(describe_other_version(path, what, value, readable[-1]))
    try:
        return QueryRecord.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path} is not the record of a query side: {describe_validation_error(error)}.") from error


def write_query_record(folder: Path, record: QueryRecord) -> Path:
    """Write the record of the query side of a model, which marks it as complete, and return its path."""
    return write_json(Path(folder) / QUERY_RECORD, record.model_dump(mode="json", by_alias=True))
