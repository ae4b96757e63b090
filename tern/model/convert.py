"""Import checkpoints of the authors of TERN and TERAN (mesnico/TERN and mesnico/TERAN, `model_best_rsum.pth.tar`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from data.io import digest, sha256_file
from data.manifest import Recipe
from data.store import Store
from data.text import describe_validation_error
from tern.card import MODEL_CARD, ModelCard
from tern.config import ModelConfig
from tern.model.authors_file import AuthorsCheckpoint, check_checkpoint_file, read_authors_checkpoint
from tern.model.folder import write_model_folder
from tern.networks.finetune import TernWithTextEncoder
from tern.networks.paper import PaperTern
from tern.networks.teran import Teran

VERSION = 2  # raise it when the same checkpoint gives other vectors


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from: a store or an extractor."""

    name: str
    """Name for messages."""
    recipe: Recipe
    dim: int
    """Numbers per row."""


def import_checkpoint(path: Path, models: Path, regions: Store, tokens: Store, text: Callable[[], nn.Module]) -> Path:
    """Convert a checkpoint of the authors into a model folder, without training.

    Sizes are compared, and names and shapes of BERT's weights. The caller must know that the regions come from the same
    detector and the token features from the same BERT.

    Args:
        path: The .pth.tar file of the authors.
        models: Parent of the new folder, whose name is a digest of the checkpoint and of the recipes of the stores. An
            existing folder is returned unchanged.
        regions: Region store that the model will read; as wide as the regions it was trained on.
        tokens: Token store of the same BERT: features for a checkpoint without a BERT of its own, else token ids.
        text: Function that builds the text encoder of `tokens`, with the names of transformers under `bert.`. Its
            weights are replaced.

    Returns:
        The folder, which `load_model` reads.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: As `load_paper_checkpoint`, or a store or the text encoder has another shape.
    """
    region_source, token_source = (FeatureSource(str(s.folder), s.recipe, s.dim) for s in (regions, tokens))
    sha = sha256_file(check_checkpoint_file(path))
    folder = Path(models) / f"tern-{_make_key(sha, region_source, token_source)}"
    if not (folder / MODEL_CARD).is_file():
        write_model_folder(folder, *load_checkpoint_model(path, region_source, token_source, text))
    return folder


def load_checkpoint_model(
    path: Path, regions: FeatureSource, tokens: FeatureSource, text: Callable[[], nn.Module]
) -> tuple[nn.Module, ModelCard]:
    """Load the model of a checkpoint, and make its card; arguments and errors are those of `import_checkpoint`."""
    sha = sha256_file(check_checkpoint_file(path))
    tern, bert = load_paper_checkpoint(path)
    for kind, source, dim in (("regions", regions, tern.region_dim), ("tokens", tokens, tern.token_dim)):
        if source.dim != dim:
            raise ValueError(
                f"{path} reads {kind} of {dim:,} numbers, but {source.name} has {source.dim:,}. Extract them as the "
                "authors did (kind bottom-up; text.model bert-base-uncased, text.layer 6)."
            )
    model = TernWithTextEncoder(tern, load_bert_weights(text(), bert, path)) if bert else tern
    card = ModelCard(
        fingerprint=_make_key(sha, regions, tokens),
        checkpoint=Path(path).name,
        sha256=sha,
        model=tern.config,
        region_dim=regions.dim,
        token_dim=tokens.dim,
        region_recipe=digest(regions.recipe),
        token_recipe=digest(tokens.recipe),
        fine_tuned=bool(bert),
        alignment_weight=float(tern.config.alignment_dim > 0),  # the authors of TERAN rank by the alignment alone
        num_parameters=sum(p.numel() for p in model.parameters()),
    )
    return model, card


def _make_key(sha256: str, regions: FeatureSource, tokens: FeatureSource) -> str:
    recipes = {"region_recipe": digest(regions.recipe), "token_recipe": digest(tokens.recipe)}
    return digest(["checkpoint", VERSION, sha256, recipes])


def load_bert_weights(text: nn.Module, bert: dict[str, Tensor], path: Path) -> nn.Module:
    """Load the BERT of a checkpoint into a text encoder, without the unused pooler and position ids.

    Args:
        text: Text encoder with the names of transformers under `bert.`; it is changed.
        bert: Weights from `load_paper_checkpoint`.
        path: The checkpoint, for the error message.

    Returns:
        The text encoder.

    Raises:
        ValueError: The two networks differ.
    """
    weights = {f"bert.{name}": value for name, value in bert.items() if not re.match(r"pooler\.|.*_ids$", name)}
    try:
        text.load_state_dict(weights)
    except RuntimeError as error:
        last_line = str(error).splitlines()[-1].strip()[:120]
        layers = len({name.split(".")[2] for name in bert if name.startswith("encoder.layer.")})
        raise ValueError(
            f"{path} contains a BERT with {layers} layers that differs from the one in [text] ({last_line}). Set "
            f"text.model to the same kind (bert-base-uncased) and text.layer={layers}."
        ) from error
    return text


def load_paper_checkpoint(path: Path) -> tuple[PaperTern, dict[str, Tensor]]:
    """Load the network of a checkpoint of the authors, in eval mode, and its BERT.

    Returns:
        The network, `PaperTern` or `Teran`, whose shape follows from the tensors (the heads and the dropout rate, which
        leave no trace in them, are the authors' 4 and 0.1); and the weights of its BERT by the names of transformers'
        BertModel, empty if the training had no BERT.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is not a checkpoint of the authors, is damaged, or has another configuration.
    """
    checkpoint = read_authors_checkpoint(path)
    teran, state = checkpoint.teran, checkpoint.network
    name = "TERN" if teran is None else "TERAN"
    try:
        config = _make_config(checkpoint)
        region_dim, token_dim = config.width, state["caption_proj.weight"].shape[1]
        model = PaperTern(config, region_dim, token_dim) if teran is None else Teran(config, region_dim, token_dim)
        constants = {} if teran is None else {"row_weights": torch.tensor(teran.row_weights)}
        model.load_state_dict(state | constants)
    except (KeyError, RuntimeError, ValueError) as error:
        problem = _describe_problem(error)
        raise ValueError(
            f"{path} is not a checkpoint of the published configuration of {name}: {problem}. Pass a checkpoint of it."
        ) from error
    return model.eval(), checkpoint.bert


def _describe_problem(error: Exception) -> str:
    match error:
        case KeyError():
            return f"it has no {error}"
        case ValidationError():
            return describe_validation_error(error)
        case RuntimeError():  # torch lists all weights that do not fit, one line per kind
            return str(error).splitlines()[-1].strip()[:200]
    return str(error)


def _make_config(checkpoint: AuthorsCheckpoint) -> ModelConfig:
    """Read the shape of the network from the tensors; KeyError or ValueError if they are of another network."""
    state, teran = checkpoint.network, checkpoint.teran
    visual, shared, text = (
        sum(name.endswith("norm1.weight") for name in state if name.startswith(part))
        for part in ("visual.", "shared.", "caption_layers.")
    )
    box_dim, width, embed_dim = (
        state["box_proj.0.weight"].shape[1],
        len(state["box_proj.2.weight"]),
        len(state["image_proj.bias"]),
    )
    if box_dim != width + 5:
        raise ValueError(f"its regions have {box_dim - 5} features, its layers {width}; both must be equal")
    return ModelConfig(
        architecture="paper" if teran is None else "teran", width=width, heads=4, visual_layers=visual,
        text_layers=text, shared_layers=shared, dropout=0.1, input_dropout=0.0, embed_dim=embed_dim,
        feedforward_dim=len(state["shared.0.feed.0.bias" if shared else "caption_layers.0.feed.0.bias"]),
        pooling="cls" if teran is None or teran.has_matching_loss else "mean",
        pre_norm=False, shortcut=False, count_similar_regions=False, alignment_dim=0 if teran is None else embed_dim,
    )  # fmt: skip
