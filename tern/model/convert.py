"""The authors' checkpoints (mesnico/TERN, `model_best_rsum.pth.tar`) into ours, by name and without unpickling."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.io import digest, remove_stale_temporaries, sha256_file, write_json, write_lock
from data.store import Store
from tern.config import ModelConfig
from tern.model.folder import MODEL_CARD, WEIGHTS, save_weights
from tern.networks.finetune import TernWithTextEncoder
from tern.networks.paper import PaperTern

VERSION = 2  # to be raised when one and the same checkpoint gives other vectors
ROOT = "img_txt_enc."
BERT = "txt_enc.bert_model."
UNUSED_PREFIXES = ("img_enc.fc.", "txt_enc.map.")  # computed in each step of theirs and never used
DUPLICATE_PREFIX = "txt_enc.word_embeddings."  # BERT's own table under a second name
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


def import_checkpoint(path: Path, models: Path, regions: Store, tokens: Store, text: Callable[[], nn.Module]) -> Path:
    """The model of one of the authors' checkpoints as a folder that `tern.embed.load` reads; nothing is trained.

    Args:
        path: the authors' .pth.tar file
        models: where the folder goes, named by the checkpoint and the recipes of the stores; one that is there is kept
        regions: region store that the model is to read, as wide as what it was trained on
        tokens: token store of the same BERT: features for a checkpoint without one of its own, else token ids
        text: makes the text encoder of `tokens`, with transformers' names under `bert.`; its weights are replaced

    Widths are compared, and names and shapes of BERT's weights; that the regions are of the same detector, and the
    features of the same BERT, is for the caller to know.

    Returns: the folder

    Raises:
        FileNotFoundError: no such file
        ValueError: as of `load_authors`, or a store or a text encoder of another shape
    """
    check_checkpoint_file(path)
    sha, recipes = sha256_file(path), {"region_recipe": digest(regions.recipe), "token_recipe": digest(tokens.recipe)}
    key = digest(["checkpoint", VERSION, sha, recipes])
    folder = Path(models) / f"tern-{key}"
    if (folder / MODEL_CARD).is_file():
        return folder
    model: nn.Module
    model, bert = load_paper_checkpoint(path)
    for what, store, dim in (("regions", regions, model.region_dim), ("wordpieces", tokens, model.token_dim)):
        if store.dim != dim:
            raise ValueError(
                f"{path} reads {what} of {dim:,} numbers, {store.folder} has {store.dim:,}: extract them as its "
                "authors did (kind bottom-up; text.model bert-base-uncased, text.layer 6)"
            )
    card: dict[str, Any] = {"fingerprint": key, "checkpoint": Path(path).name, "sha256": sha, **recipes}
    card |= {"model": model.config.model_dump(mode="json"), "region_dim": regions.dim, "token_dim": tokens.dim}
    if bert:
        model = TernWithTextEncoder(model, load_bert_weights(text(), bert, path))
    card |= {"fine_tuned": bool(bert), "num_parameters": sum(p.numel() for p in model.parameters())}
    folder.mkdir(parents=True, exist_ok=True)
    with write_lock(folder):
        if not (folder / MODEL_CARD).is_file():  # another process may have made it meanwhile
            remove_stale_temporaries(folder)  # of one that was killed while it wrote
            save_weights(folder / WEIGHTS, model)
            write_json(folder / MODEL_CARD, card)
    return folder


def check_checkpoint_file(path: Path) -> Path:
    """The path, if a file is there. Raises FileNotFoundError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give the authors' .pth.tar file")
    return Path(path)


def load_bert_weights(text: nn.Module, bert: dict[str, Tensor], path: Path) -> nn.Module:
    """A text encoder with the weights of a checkpoint's BERT; its pooler and lists of positions, never asked, go.

    Args:
        text: with transformers' names under `bert.`; it is changed
        bert: as of `load_authors`; path: where it is from, for the error

    Raises:
        ValueError: the two are not alike
    """
    wanted = {f"bert.{name}": value for name, value in bert.items() if not re.match(r"pooler\.|.*_ids$", name)}
    try:
        text.load_state_dict(wanted)
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()[:120]
        layers = len({name.split(".")[2] for name in bert if name.startswith("encoder.layer.")})
        raise ValueError(
            f"{path} has a BERT of its own, of {layers} layers, which is not like the one in [text]: give text.model "
            f"of the same kind (bert-base-uncased) and text.layer={layers} ({last})"
        ) from error
    return text


def load_paper_checkpoint(path: Path) -> tuple[PaperTern, dict[str, Tensor]]:
    """The model of one of the authors' checkpoints, in eval mode, and its BERT.

    Returns: the model, its shape read off the tensors (heads and dropout, which leave no trace, are theirs: 4 and
        0.1), and the weights of its BERT by their names in transformers' BertModel; empty if the run had none

    Raises:
        FileNotFoundError: no such file
        ValueError: not a checkpoint of theirs, damaged, or of a configuration that this model is not
    """
    state, bert = convert_state_dict(read_checkpoint(path))
    layers = {part: sum(name.endswith("norm1.weight") for name in state if name.startswith(part)) for part in
              ("visual.", "shared.")}  # fmt: skip
    try:
        wide, width, embed = (
            state["box_proj.0.weight"].shape[1],
            len(state["box_proj.2.weight"]),
            len(state["image_proj.bias"]),
        )
        ff = len(state["shared.0.feed.0.bias"])
        if wide != width + 5:
            raise ValueError(f"regions of {wide - 5} features go into a stack {width} wide; theirs are as wide as it")
        config = ModelConfig(
            architecture="paper", width=width, heads=4, visual_layers=layers["visual."], shared_layers=layers["shared."],
            feedforward_dim=ff, dropout=0.1, input_dropout=0.0, embed_dim=embed, pooling="cls", pre_norm=False, shortcut=False,
            count_similar_regions=False,
        )  # fmt: skip
        model = PaperTern(config, wide - 5, state["caption_proj.weight"].shape[1])
        model.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of TERN's published configuration: {error}") from error
    return model.eval(), bert


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the authors' names; it is read by torch's `weights_only` reader."""
    path = check_checkpoint_file(path)
    scalar = (np._core.multiarray.scalar, "numpy.core.multiarray.scalar")  # their best scores are numpy numbers
    plain = [argparse.Namespace, scalar, np._core.multiarray.scalar, np.dtype, type(np.dtype(np.float64))]
    try:
        with torch.serialization.safe_globals(plain):  # their options lie beside the weights, as a Namespace
            state = torch.load(path, map_location="cpu", weights_only=True)["model"]
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # a damaged file raises whatever its reader trips over
        raise ValueError(f"{path} cannot be read as a checkpoint with weights under 'model': {error}") from error


def convert_state_dict(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by the authors' names -> (those of `AuthorsTern`, those of BERT), by our names and by transformers'.

    Raises:
        ValueError: a name that the published configuration does not have, such as a second, unshared stack
    """
    ours, bert = {}, {}
    for name, value in state.items():
        short = name.removeprefix("module.").removeprefix(ROOT)
        if short.startswith(BERT):
            bert[short.removeprefix(BERT)] = value
        elif not short.startswith((*UNUSED_PREFIXES, DUPLICATE_PREFIX)):
            ours[convert_parameter_name(short)] = value
    return ours, bert


def convert_parameter_name(name: str) -> str:
    """One of the authors' names as ours."""
    for theirs, mine in PREFIX_PATTERNS.items():
        if re.match(theirs, name):
            name = re.sub(f"^{theirs}", mine, name)
            for inside, own in LAYER_NAMES.items():
                name = name.replace(inside, own)
            return name
    raise ValueError(
        f"{name!r} is not of TERN's published configuration (shared layers, box by concat-and-process, [CLS] "
        "pooling); TERAN's and other variants have other networks"
    )
