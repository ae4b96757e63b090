"""Load the BERT-like models of transformers, and find the folder of a model name; used by `TextExtractor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from extractors.packaged import MINILM, find_package_file

MEAN_LAST_4 = "mean-last-4"
NUM_MEAN_LAYERS = 4
SET_MODEL = (
    'Set `text.model` to "minilm", which needs no download, or to a folder with config.json, tokenizer and '
    "model.safetensors."
)
WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
HUB_TIMEOUT_SECONDS = 5.0


def must_download(folder: str) -> bool:
    """Return whether a model is neither a folder nor complete in the cache of the Hugging Face hub.

    Raises:
        FileNotFoundError: It must be downloaded, but the hub cannot be reached. transformers would repeat each request
            for a minute.
    """
    if Path(folder).is_dir() or _is_cached(folder):
        return False
    if is_hub_reachable():
        return True
    raise FileNotFoundError(
        f"The text model {folder!r} is not on this machine, and the Hugging Face hub cannot be reached. {SET_MODEL}"
    )


def _is_cached(model: str) -> bool:
    """Return whether the cache of the hub has config, weights and tokenizer of a model."""
    try:
        files = [try_to_load_from_cache(model, name) for name in (CONFIG_NAME, *WEIGHT_FILES)]
        is_complete = isinstance(files[0], str) and any(isinstance(file, str) for file in files[1:])
        return is_complete and bool(AutoTokenizer.from_pretrained(model, local_files_only=True))
    except (OSError, ValueError):  # no such file, or not a name of the hub
        return False


def is_hub_reachable() -> bool:
    """Return whether the Hugging Face hub answers one request within `HUB_TIMEOUT_SECONDS`."""
    try:
        return bool(get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_SECONDS).status_code < 500)
    except Exception:  # whatever the HTTP client of the installed release raises, also in offline mode
        return False


def load_tokenizer(folder: str, local: bool) -> Any:
    """Load the tokenizer of a model from its folder, or by its name on the Hugging Face hub.

    Raises:
        OSError: The tokenizer does not exist.
    """
    return AutoTokenizer.from_pretrained(folder, local_files_only=local)


class HiddenStates:
    """The hidden states of a text model that are stored: one, the mean of several, or several side by side.

    Args:
        width: Numbers of a hidden state of one token.
        numbers: Numbers of the hidden states; a single one is the last of the model.
        is_mean: Whether their mean is stored.
    """

    def __init__(self, width: int, numbers: tuple[int, ...], is_mean: bool) -> None:
        self._numbers, self._is_mean = numbers, is_mean
        self.needs_all = len(numbers) > 1
        self.dim = width if is_mean else width * len(numbers)

    @property
    def recipe(self) -> int | str | list[int]:
        """Their part of a recipe."""
        if self._is_mean:
            return MEAN_LAST_4
        return [*self._numbers] if self.needs_all else self._numbers[0]

    def select(self, outputs: Any) -> torch.Tensor:
        """Select them from the outputs of the model: (b, l, dim)."""
        if not self.needs_all:
            last: torch.Tensor = outputs.last_hidden_state
            return last
        states = [outputs.hidden_states[number] for number in self._numbers]
        return torch.stack(states).float().mean(0) if self._is_mean else torch.cat(states, dim=-1)


Layer = int | str | tuple[int, ...]
"""A hidden state, "mean-last-4", or several hidden states."""


def load_text_model(folder: str, layer: Layer, local: bool) -> tuple[PreTrainedModel, HiddenStates]:
    """Load a model without the layers above a hidden state, so that its last hidden state is that one.

    Args:
        folder: Folder, or name on the Hugging Face hub.
        layer: Index of the hidden state, from -(layers + 1) to layers; several of them, of which the highest decides;
            or "mean-last-4", which keeps all layers.
        local: Whether to read local files only.

    Returns:
        The model in float32, without a pooler, and what selects the hidden states from its outputs.

    Raises:
        OSError: The model does not exist.
        ValueError: The model does not have the layer, or its weights are damaged or of another model.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=local)
    num_layers = config.num_hidden_layers
    numbers = find_hidden_states(layer, num_layers, folder)
    last = max(numbers)
    show_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it would interrupt the progress bar of the pipeline
    try:
        model, loading_info = AutoModel.from_pretrained(
            folder, local_files_only=local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"The weights in {folder} are damaged ({error}). Download them again.") from error
    finally:
        if show_progress:
            logging.enable_progress_bar()
    if getattr(model, "pooler", None) is not None:
        # Unused. A checkpoint without a pooler gets random weights for it, and so a random hash.
        model.pooler = None
    missing = sorted(key for key in loading_info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(
            f"The weights in {folder} lack {missing[0]!r}, so they are those of another model. Set `text.model` to a "
            "folder whose config.json and weights belong together."
        )
    if last < num_layers:
        lists = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == num_layers)
        stack = next(lists, None)
        if stack is None:
            raise ValueError(
                f"{folder} does not keep its {num_layers} layers in one nn.ModuleList, so it cannot be cut. "
                "Set `text.layer` to -1."
            )
        del stack[last:]
    model.config.num_hidden_layers = last
    return model, HiddenStates(model.config.hidden_size, numbers, is_mean=layer == MEAN_LAST_4)


def find_hidden_states(layer: Layer, num_layers: int, folder: str) -> tuple[int, ...]:
    """Return the numbers of the hidden states that a setting names, each 0 to `num_layers`.

    Raises:
        ValueError: The model does not have one of them.
    """
    if isinstance(layer, tuple):
        return tuple(number for part in layer for number in find_hidden_states(part, num_layers, folder))
    if layer == MEAN_LAST_4:
        if num_layers < NUM_MEAN_LAYERS:
            raise ValueError(
                f"The layer {MEAN_LAST_4!r} needs {NUM_MEAN_LAYERS} layers, but {folder} has {num_layers}. "
                "Set `text.layer` to a number."
            )
        return tuple(range(num_layers - NUM_MEAN_LAYERS + 1, num_layers + 1))
    index = int(layer)
    if not -num_layers - 1 <= index <= num_layers:
        raise ValueError(
            f"{folder} does not have the layer {layer}: it has hidden states {-num_layers - 1} to {num_layers}. "
            "Set `text.layer` to one of them."
        )
    return (index if index >= 0 else num_layers + 1 + index,)


def resolve_model_folder(model: str) -> str:
    """Return a hub name or folder unchanged, and for "minilm" the folder inside the installed package.

    Raises:
        FileNotFoundError: The package of "minilm" is not installed.
        ValueError: The weights of "minilm" are not those of the pinned release.
    """
    return str(find_package_file(MINILM).parent) if model == "minilm" else model
