"""Checkpoint files of the authors of TERN and TERAN: read without unpickling code, with the names of our networks."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.io import check_checkpoint

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
UNSHARED_PATTERNS = PREFIX_PATTERNS | {
    r"transformer_encoder_1\.layers\.(\d+)\.": r"caption_layers.\1.",
    r"transformer_encoder_2\.layers\.(\d+)\.": r"image_layers.\1.",
}
LAYER_NAMES = {
    "self_attn.in_proj_": "qkv.",
    "self_attn.out_proj.": "out.",
    "linear1.": "feed.0.",
    "linear2.": "feed.3.",
}
ROW_WEIGHT = 2.0**-5  # of a term of TERAN's sums: the score of a caption of up to 64 words is at most 1
ROW_WEIGHTS = {"MrSw": (0.0, ROW_WEIGHT), "MwSr": (ROW_WEIGHT, 0.0), "symm": (ROW_WEIGHT, ROW_WEIGHT)}
TERAN_SETTINGS: dict[tuple[str, str], object] = {
    ("training", "measure"): "dot",
    ("model", "exclude-stopwords"): False,
    ("model", "text-aggregation"): "first",
    ("model", "image-aggregation"): "first",
}


@dataclass(frozen=True)
class TeranSettings:
    """What the configuration in a checkpoint of TERAN says about its network and its score."""

    row_weights: tuple[float, float]
    """Weight of each region, and of each word, in a score."""
    has_matching_loss: bool
    """Whether [CLS] was trained too."""
    is_shared: bool
    """Whether regions and words share the last layers."""


@dataclass(frozen=True)
class AuthorsCheckpoint:
    """Content of a checkpoint file."""

    network: dict[str, Tensor]
    """Weights of `PaperTern` or `Teran`."""
    bert: dict[str, Tensor]
    """Weights of its BERT by the names of transformers' BertModel, empty if the training had no BERT."""
    teran: TeranSettings | None
    """None for TERN."""


def read_authors_checkpoint(path: Path) -> AuthorsCheckpoint:
    """Read a checkpoint with torch's `weights_only` reader. It is one of TERAN if it was trained to align.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is damaged, has no weights under 'model', or has those of another configuration.
    """
    path = check_checkpoint_file(path)
    numpy_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]  # the best scores in the file are NumPy scalars
    # The options in the file are a Namespace.
    allowed = [argparse.Namespace, (numpy_scalar, "numpy.core.multiarray.scalar"), numpy_scalar, np.dtype,
               type(np.dtype(np.float64))]  # fmt: skip
    try:
        check_checkpoint(path)
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {name: value for name, value in content["model"].items() if isinstance(value, Tensor)}
        check_checkpoint(path, (value.nbytes for value in tensors.values()))
    except Exception as error:  # the reader of a damaged file raises any kind
        raise ValueError(
            f"{path} cannot be read as a checkpoint with weights under 'model': {error}. Download it again."
        ) from error
    teran = read_teran_settings(content.get("config"), path)
    return AuthorsCheckpoint(*convert_state_dict(tensors, teran is None or teran.is_shared), teran)


def check_checkpoint_file(path: Path) -> Path:
    """Return the path of a checkpoint if it is a file.

    Raises:
        FileNotFoundError: It is not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist. Pass the .pth.tar file of the authors.")
    return Path(path)


def read_teran_settings(config: object, path: Path) -> TeranSettings | None:
    """Read the configuration of a checkpoint; None if it is not one of TERAN: its loss is not that of the alignment.

    Args:
        config: What the file has under 'config'; None if it has none.
        path: The file, for the error message.

    Raises:
        ValueError: The score of its configuration is not one that this program computes.
    """
    loss = str(_get_setting(config, "training", "loss-type", ""))
    if "alignment" not in loss:
        return None
    mode = _get_setting(config, "training", "alignment-mode", "")
    other = [
        f"{name}: {value!r:.80}"
        for (table, name), required in TERAN_SETTINGS.items()
        if (value := _get_setting(config, table, name, required)) != required
    ]
    if not isinstance(mode, str) or mode not in ROW_WEIGHTS:
        other.append(f"alignment-mode: {mode!r:.80}")
    if other:
        raise ValueError(
            f"{path} is a checkpoint of TERAN with {', '.join(other)} in its configuration, whose score is not "
            f"supported. Pass one with alignment-mode {', '.join(ROW_WEIGHTS)}, measure dot, aggregation first, and "
            "all stopwords."
        )
    is_shared = bool(_get_setting(config, "model", "shared-transformer", False))
    return TeranSettings(ROW_WEIGHTS[str(mode)], "matching" in loss, is_shared)


def _get_setting(config: object, table: str, name: str, default: object) -> object:
    part: Any = config.get(table) if isinstance(config, Mapping) else None
    return part.get(name, default) if isinstance(part, Mapping) else default


def convert_state_dict(
    state: Mapping[str, Tensor], is_shared: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convert weights from the names of the authors.

    Args:
        state: Weights by the names of the authors.
        is_shared: Whether regions and words share the last layers, as in TERN.

    Returns:
        The weights of `PaperTern` or `Teran`, and those of BERT by the names of transformers.

    Raises:
        ValueError: A name does not belong to the configuration, for example a second, unshared stack in TERN.
    """
    network, bert = {}, {}
    patterns = PREFIX_PATTERNS if is_shared else UNSHARED_PATTERNS
    for name, value in state.items():
        short = name.removeprefix("module.").removeprefix(ROOT)
        if short.startswith(BERT):
            bert[short.removeprefix(BERT)] = value
        elif not short.startswith((*UNUSED_PREFIXES, DUPLICATE_PREFIX)):
            network[convert_parameter_name(short, patterns)] = value
    return network, bert


def convert_parameter_name(name: str, patterns: Mapping[str, str]) -> str:
    """Convert a parameter name of the authors into that of our network; raise ValueError if it is unknown."""
    for pattern, prefix in patterns.items():
        if re.match(pattern, name):
            name = re.sub(f"^{pattern}", prefix, name)
            for old, new in LAYER_NAMES.items():
                name = name.replace(old, new)
            return name
    raise ValueError(
        f"{name!r} does not belong to a published configuration of TERN (shared layers, box by concat-and-process, "
        "[CLS] pooling) or TERAN (the same, also with unshared layers, and with its alignment loss in the "
        "configuration of the file). Other variants have other networks; they cannot be imported."
    )
