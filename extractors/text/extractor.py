"""Sentences to rows of token features, by any BERT-like model of transformers.

l tokens of a sentence, [CLS] and [SEP] included; d feature width; b sentences of a batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from extractors.config import TextConfig
from extractors.nn.inference import parse_device
from extractors.nn.state_dict import state_sha256
from extractors.text.models import MEAN_LAST_4, NUM_MEAN_LAYERS, _load, _resolve

VERSION = 2  # to be raised when equal settings give other numbers: stores are named by it


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
        tokenizer = json.loads(self._tokenizer.backend_tokenizer.to_str())  # vocabulary, normalizer, templates
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
        ids, whole = self._tokenize(texts)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found: dict[int, Tokens] = {}
        for start in range(0, len(order), self.config.batch_size):
            members = order[start : start + self.config.batch_size]
            rows = self._batch([ids[i] for i in members])
            found.update(
                {i: Tokens(row, np.array(ids[i], np.int32), whole[i]) for i, row in zip(members, rows, strict=True)}
            )
        return [found[i] for i in range(len(texts))]

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
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
