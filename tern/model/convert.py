"""Import checkpoints of the TERN authors (mesnico/TERN, `model_best_rsum.pth.tar`), by name and without unpickling
code."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.io import check_checkpoint, digest, sha256_file
from data.manifest import Recipe
from data.store import Store
from tern.card import MODEL_CARD, ModelCard
from tern.config import ModelConfig
from tern.model.folder import write_model_folder
from tern.networks.finetune import TernWithTextEncoder
from tern.networks.paper import PaperTern

VERSION = 2  # raise it when the same checkpoint gives other vectors
ROOT = "img_txt_enc."
BERT = "txt_enc.bert_model."
UNUSED_PREFIXES = ("img_enc.fc.", "txt_enc.map.")  # layers of the authors whose output is never used
DUPLICATE_PREFIX = "txt_enc.word_embeddings."  # second name of BERT's table of word embeddings
PREFIX_PATTERNS = {
    r"img_enc\.pos_encoding_image\.map\.(\d)\.": r"box_proj.\1.",
    r"img_enc\.transformer_encoder\.layers\.(\d+)\.": r"visual.\1.",
    r"transformer_encoder_1\.layers\.(\d+)\.": r"shared.\1.",
    r"img_proj\.": "image_proj.",
    r"cap_proj\.": "caption_proj.",
}
LAYER_NAMES = {
    "self_attn.in_proj_": "qkv.",
    "self_attn.out_proj.": "out.",
    "linear1.": "feed.0.",
    "linear2.": "feed.3.",
}


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
        num_parameters=sum(p.numel() for p in model.parameters()),
    )
    return model, card


def _make_key(sha256: str, regions: FeatureSource, tokens: FeatureSource) -> str:
    recipes = {"region_recipe": digest(regions.recipe), "token_recipe": digest(tokens.recipe)}
    return digest(["checkpoint", VERSION, sha256, recipes])


def check_checkpoint_file(path: Path) -> Path:
    """Return the path of a checkpoint if it is a file.

    Raises:
        FileNotFoundError: It is not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist. Pass the .pth.tar file of the authors.")
    return Path(path)


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
        The network, whose shape follows from the tensors (the heads and the dropout rate, which leave no trace in them,
        are the authors' 4 and 0.1); and the weights of its BERT by the names of transformers' BertModel, empty if the
        training had no BERT.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is not a checkpoint of the authors, is damaged, or has another configuration.
    """
    state, bert = convert_state_dict(read_checkpoint(path))
    visual, shared = (
        sum(name.endswith("norm1.weight") for name in state if name.startswith(part)) for part in ("visual.", "shared.")
    )
    try:
        box_dim, width = state["box_proj.0.weight"].shape[1], len(state["box_proj.2.weight"])
        if box_dim != width + 5:
            raise ValueError(f"its regions have {box_dim - 5} features, its layers {width}; both must be equal")
        config = ModelConfig(
            architecture="paper", width=width, heads=4, visual_layers=visual, shared_layers=shared,
            feedforward_dim=len(state["shared.0.feed.0.bias"]), dropout=0.1, input_dropout=0.0,
            embed_dim=len(state["image_proj.bias"]), pooling="cls", pre_norm=False, shortcut=False,
            count_similar_regions=False,
        )  # fmt: skip
        model = PaperTern(config, box_dim - 5, state["caption_proj.weight"].shape[1])
        model.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of the published configuration of TERN: {error}. Pass a checkpoint of it."
        ) from error
    return model.eval(), bert


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by the names of the authors, with torch's `weights_only` reader.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is damaged or has no weights under 'model'.
    """
    path = check_checkpoint_file(path)
    numpy_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]  # the best scores in the file are NumPy scalars
    # The options in the file are a Namespace.
    allowed = [argparse.Namespace, (numpy_scalar, "numpy.core.multiarray.scalar"), numpy_scalar, np.dtype,
               type(np.dtype(np.float64))]  # fmt: skip
    try:
        check_checkpoint(path)
        with torch.serialization.safe_globals(allowed):
            state = torch.load(path, map_location="cpu", weights_only=True)["model"]
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        check_checkpoint(path, (value.nbytes for value in tensors.values()))
        return tensors
    except Exception as error:  # the reader of a damaged file raises any kind
        raise ValueError(
            f"{path} cannot be read as a checkpoint with weights under 'model': {error}. Download it again."
        ) from error


def convert_state_dict(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convert weights from the names of the authors.

    Returns:
        The weights of `PaperTern`, and those of BERT by the names of transformers.

    Raises:
        ValueError: A name does not belong to the published configuration, for example a second, unshared stack.
    """
    tern, bert = {}, {}
    for name, value in state.items():
        short = name.removeprefix("module.").removeprefix(ROOT)
        if short.startswith(BERT):
            bert[short.removeprefix(BERT)] = value
        elif not short.startswith((*UNUSED_PREFIXES, DUPLICATE_PREFIX)):
            tern[convert_parameter_name(short)] = value
    return tern, bert


def convert_parameter_name(name: str) -> str:
    """Convert a parameter name of the authors into that of `PaperTern`; raise ValueError if it is unknown."""
    for pattern, prefix in PREFIX_PATTERNS.items():
        if re.match(pattern, name):
            name = re.sub(f"^{pattern}", prefix, name)
            for old, new in LAYER_NAMES.items():
                name = name.replace(old, new)
            return name
    raise ValueError(
        f"{name!r} does not belong to the published configuration of TERN (shared layers, box by concat-and-process, "
        "[CLS] pooling). TERAN and other variants have other networks; they cannot be imported."
    )
