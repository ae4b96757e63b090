"""Token features of captions by a BERT-like model of transformers; used by extraction, queries and fine-tuning.

Shapes: l tokens of a caption including [CLS] and [SEP], d feature size, b captions of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from data.batches import group_by_length
from extractors.config import TextConfig
from extractors.nn.inference import parse_device
from extractors.nn.state_dict import state_sha256
from extractors.text.models import (
    SET_MODEL,
    load_text_model,
    load_tokenizer,
    must_download,
    resolve_model_folder,
)
from extractors.torch_free import TEXT_VERSION, device_recipe, hash_tokenizer, join_surrogates

CPU_BATCH, GPU_BATCH = 4, 64  # captions; on a CPU, larger batches save 20 % of the time, and a query takes one batch


@dataclass(frozen=True)
class Tokens:
    """Tokens of one caption, from [CLS] to [SEP]."""

    features: np.ndarray
    """(l, d) float16, the chosen hidden state"""
    token_ids: np.ndarray
    """(l,) int32"""
    full_length: int
    """Number of tokens before truncation; more than l for a truncated caption."""


class TextExtractor:
    """Tokenizer and lower layers of a BERT-like model, up to the layer that is stored."""

    def __init__(self, config: TextConfig) -> None:
        """Load the tokenizer and the model.

        Raises:
            FileNotFoundError: The model is neither a folder nor available from the hub.
            ValueError: The model does not have the layer, or reads fewer tokens than `max_tokens`.
        """
        self.config = config
        on_cpu = parse_device(config.device).type == "cpu"
        folder = resolve_model_folder(config.model)
        local = not must_download(folder)
        try:
            self._tokenizer = load_tokenizer(folder, local)
            model: Any
            model, self._hidden_states = load_text_model(folder, config.layer, local)
            self._model = model.to(config.device).eval()
        except OSError as error:
            raise FileNotFoundError(
                f"The text model {config.model!r} cannot be loaded: it is not a folder with config.json, tokenizer and "
                f"model.safetensors, and the Hugging Face hub did not return it ({str(error).splitlines()[0]}). "
                f"{SET_MODEL}"
            ) from error
        # The tokenizer of a folder may have no limit, but the number of positions of the model is always finite.
        longest = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings)
        if config.max_tokens > longest:
            raise ValueError(
                f"max_tokens {config.max_tokens} is more than the {longest} tokens that {config.model!r} reads. "
                "Lower `text.max_tokens`."
            )
        self.dim = self._hidden_states.dim
        self.unknown_id: int | None = self._tokenizer.unk_token_id
        self.vocabulary_size: int = self._model.config.vocab_size
        self._batch_size = config.batch_size or (CPU_BATCH if on_cpu else GPU_BATCH)

    @property
    def tokenizer_rules(self) -> str:
        """JSON of the tokenizer: vocabulary, normalizer, templates."""
        rules: str = self._tokenizer.backend_tokenizer.to_str()
        return rules

    @cached_property  # it hashes all weights
    def recipe(self) -> dict[str, Any]:
        """Return all settings and hashes that determine the stored rows; its digest names the store."""
        return {
            "extractor": "text",
            "version": TEXT_VERSION,
            "layer": self._hidden_states.recipe,
            "max_tokens": self.config.max_tokens,
            "batch_size": self._batch_size,
            "unknown_id": self.unknown_id,
            "dtype": self.config.dtype,
            **device_recipe(self.config.device),
            "weights_sha256": state_sha256(self._model),
            "tokenizer_sha256": hash_tokenizer(self.tokenizer_rules),
        }

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> list[Tokens]:
        """Compute the tokens of texts; stored captions and typed queries both use this method.

        Each forward pass has `batch_size` texts of one length; a smaller group is filled up with its last text. The
        shape of a pass, and so the rounding of its sums, therefore depends on the text alone, not on the other texts.

        Args:
            texts: Any strings. An empty one, or one of characters that the tokenizer drops, gives [CLS] and [SEP].
                Half a surrogate pair is read as U+FFFD. The name of a special token, such as "[SEP]", is plain text.

        Returns:
            One `Tokens` per text, in the order of `texts`.
        """
        ids, full_lengths = self._tokenize(texts)
        tokens: dict[int, Tokens] = {}
        for members in group_by_length([len(row) for row in ids], self._batch_size):
            for i, features in zip(members, self._compute_batch([ids[i] for i in members]), strict=True):
                tokens[i] = Tokens(features, np.array(ids[i], np.int32), full_lengths[i])
        return [tokens[i] for i in range(len(texts))]

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""
        return self._tokenize(texts)[0]

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        """Return the token ids of each text, and the lengths before truncation.

        Texts are truncated as transformers does it.

        One pass is enough: the tokenizer returns the truncated rest as further pieces, each with its own [CLS] and
        [SEP].
        """
        if not texts:
            return [], []
        limits = {"truncation": True, "max_length": self.config.max_tokens, "return_overflowing_tokens": True}
        plain_texts = [join_surrogates(text) for text in texts]
        pieces = self._tokenizer(plain_texts, split_special_tokens=True, **limits)
        num_special = self._tokenizer.num_special_tokens_to_add()
        ids: list[list[int]] = []
        full_lengths: list[int] = []
        for piece, text_index in zip(pieces["input_ids"], pieces["overflow_to_sample_mapping"], strict=True):
            if text_index == len(ids):  # the first piece of a text, which is kept
                ids.append(piece)
                full_lengths.append(num_special)
            full_lengths[text_index] += len(piece) - num_special
        return ids, full_lengths

    def _compute_batch(self, ids: list[list[int]]) -> list[np.ndarray]:
        """Return the features of at most `batch_size` texts of one length (l,), each (l, d) float16."""
        num_filled = self._batch_size - len(ids)
        input_ids = torch.tensor(ids + ids[-1:] * num_filled)  # (b, l)
        device, use_bfloat16 = self.config.device, self.config.dtype == "bfloat16"
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=use_bfloat16):
            inputs = {"input_ids": input_ids.to(device), "attention_mask": torch.ones_like(input_ids).to(device)}
            out = self._model(**inputs, output_hidden_states=self._hidden_states.needs_all)
        features = self._hidden_states.select(out).half().cpu().numpy()  # (b, l, d)
        return [row.copy() for row in features[: len(ids)]]


class TextEncoder(torch.nn.Module):
    """The layers whose output a `TextExtractor` stores, to be trained with the model."""

    def __init__(self, config: TextConfig, extractor: TextExtractor | None = None) -> None:
        """Load the layers, or take those of an extractor on the CPU, which shares them."""
        super().__init__()
        extractor = extractor or TextExtractor(config.model_copy(update={"device": "cpu"}))
        self.bert, self._hidden_states = extractor._model, extractor._hidden_states

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute token features.

        Args:
            ids: (b, l) int, token ids as a token store contains them.
            mask: (b, l) bool, true for a token.

        Returns:
            (b, l, d) float.
        """
        needs_all = self._hidden_states.needs_all
        return self._hidden_states.select(
            self.bert(input_ids=ids, attention_mask=mask.long(), output_hidden_states=needs_all)
        )
