"""The model card `model.json`: what a folder with a trained model contains. Reading it needs pydantic, not torch.

Training and the import of a checkpoint write the card last, so a folder with a card is finished. Loading, embedding,
the report and the lineage read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.io import describe_other_version, read_json, write_json
from data.text import describe_validation_error
from tern.config import ModelConfig, TrainConfig

MODEL_CARD = "model.json"
SCHEMA_VERSION: Literal[11] = 11  # of the keys of the card; raise it when they change
# A card of schema 8 has no `network`, and is of network version 1; one of schema 9 has no `alignment_weight`.
# One of schema 10 has no `pooled_half`.
READABLE_SCHEMAS = (8, 9, 10, SCHEMA_VERSION)
NETWORK_VERSION = 1  # raise it when the names or shapes of weights change, or what a network computes from them

FORMER_PRESET = "small-data"


class ModelCard(BaseModel):
    """Content of `model.json`.

    A trained model has `config`, `epoch` and `metrics`; an imported one has `checkpoint` and `sha256`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[8, 9, 10, 11] = Field(SCHEMA_VERSION, alias="schema")
    """Version of the card's fields."""
    network: int = NETWORK_VERSION
    """Version of the network: of the names and shapes of its weights, and of what it computes."""
    fingerprint: str
    """Digest (12 hex digits) of everything that determines the weights."""
    checkpoint: str | None = None
    """File name of the checkpoint that the weights come from; None for a model trained here."""
    sha256: str | None = None
    """SHA-256 of that file; None for a model trained here."""
    config: TrainConfig | None = None
    """Settings of the training; None for an imported checkpoint."""
    model: ModelConfig
    """Shape of the network."""
    region_dim: int
    """Features per region."""
    token_dim: int
    """Features per token."""
    region_recipe: str
    """Digest of the recipe of the region store that the model reads."""
    token_recipe: str
    """Digest of the recipe of the token store that the model reads."""
    fine_tuned: bool
    """Whether the weights include those of a text encoder."""
    alignment_weight: float = Field(0, ge=0, le=1)
    """Weight of the alignment score next to the cosine (`data.alignment.combine_scores`), chosen on `val`; 0 for a
    model without row vectors."""
    num_parameters: int
    """Number of parameters."""
    epoch: int | None = None
    """Epoch of the weights, from 1; None for an imported checkpoint."""
    metrics: dict[str, float] | None = None
    """Metrics of that epoch on `val`, as `RetrievalMetrics.flat()` names them; None for an imported checkpoint."""


def read_model_card(folder: Path) -> ModelCard:
    """Read the card of a model's folder.

    Raises:
        FileNotFoundError: The folder has no card, because training has not finished there.
        ValueError: The card was written by another version of this program, or is damaged.
    """
    path = Path(folder) / MODEL_CARD
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: training has not finished in {folder}. Run `tern train` again.")
    content = read_json(path)
    keep = f"Delete {folder} and run `tern train`; the stores and the published index stay usable."
    if isinstance(content, dict) and "schema" not in content and "fingerprint" in content:
        raise ValueError(
            f"{path} was written by version 0.1 of this program (training version 7); this version reads version "
            f"{SCHEMA_VERSION}. {keep}"
        )
    if isinstance(content, dict):
        for what, found, readable in (
            ("card schema", content.get("schema"), READABLE_SCHEMAS),
            ("network version", content.get("network", 1), (NETWORK_VERSION,)),
        ):
            if found not in readable:
                raise ValueError(f"{describe_other_version(path, what, found, readable[-1])} {keep}")
        config = content.get("config")
        if isinstance(config, dict) and config.get("preset") == FORMER_PRESET:
            content["config"] = config | {"preset": "default"}  # the same network, and the card has every value
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        problem = describe_validation_error(error)
        if {entry["type"] for entry in error.errors()} <= {"missing", "extra_forbidden"}:
            raise ValueError(
                f"{path} has other keys than the cards of this version, so another version of this program wrote it: "
                f"{problem}. {keep}"
            ) from error
        raise ValueError(
            f"{path} is not a model card of version {SCHEMA_VERSION}: {problem}. Restore the file. Or: {keep}"
        ) from error


def write_model_card(folder: Path, card: ModelCard) -> Path:
    """Write the card of a model's folder, which marks the folder as finished, and return its path."""
    return write_json(Path(folder) / MODEL_CARD, card.model_dump(mode="json", by_alias=True, exclude_none=True))
