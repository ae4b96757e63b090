"""A model with its text model, for queries: `ModelEncoder`, and the one that runs in ONNX Runtime, without torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extractors.torch_free import Tokenizer, find_text_folder, hash_tokenizer
from tern.query import TOKENIZER, ImageRegions, QueryRecord, QuerySide


class ModelEncoder(ABC):
    """A model with its text model: token ids and regions go in, vectors come out. Safe to share between threads."""

    unknown_id: int | None
    """Token id of what the tokenizer does not know; None if it knows everything."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: (n, e) float32 of unit length."""

    @abstractmethod
    def embed_images(self, images: Sequence[ImageRegions]) -> np.ndarray:
        """Embed images whose regions are known: (n, e) float32 of unit length."""

    @abstractmethod
    def load(self) -> None:
        """Load now what the first query needs."""


class OnnxEncoder(ModelEncoder):
    """A model with a query side.

    Args:
        folder: Folder of the model, or of a model package.
        record: Its record.
        is_resident: Whether many queries will follow.

    Raises:
        FileNotFoundError: The text model is not on this machine.
        ValueError: Its tokenizer is another one.
    """

    def __init__(self, folder: Path, record: QueryRecord, is_resident: bool) -> None:
        self._side = QuerySide(folder, record, find_text_folder, is_resident=is_resident)
        own = folder / TOKENIZER
        path = own if own.is_file() else find_text_folder(record.text.model) / TOKENIZER
        rules = path.read_text(encoding="utf-8")
        if hash_tokenizer(rules) != record.tokenizer_sha256:
            raise ValueError(f"{path} is not the tokenizer of the model {folder.name}. Restore the file.")
        self._tokenizer = Tokenizer(rules, record.max_tokens)
        self.unknown_id = record.unknown_id

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""
        return self._tokenizer(texts)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: (n, e) float32 of unit length."""
        return self._side.embed_token_ids(self._tokenizer(texts))

    def embed_images(self, images: Sequence[ImageRegions]) -> np.ndarray:
        """Embed images whose regions are known: (n, e) float32 of unit length."""
        return self._side.embed_images(images)

    def load(self) -> None:
        """Open both graphs."""
        self._side.open_captions()
        self._side.open_images()
