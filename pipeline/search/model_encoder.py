"""A model with its text model, for queries: `ModelEncoder`, and the one that runs in ONNX Runtime, without torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from data.alignment import Embeddings
from data.io import sha256_file
from extractors.torch_free import Tokenizer, Word, find_text_folder
from tern.card import TOKENIZER
from tern.query import ImageRegions, QueryRecord, QuerySide


class ModelEncoder(ABC):
    """A model with its text model: token ids and regions go in, vectors come out. Safe to share between threads."""

    unknown_id: int | None
    """Token id of what the tokenizer does not know; None if it knows everything."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""

    @abstractmethod
    def find_words(self, text: str) -> list[Word]:
        """Find the words of a text in its tokens."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, at least one."""

    @abstractmethod
    def embed_images(self, images: Sequence[ImageRegions]) -> Embeddings:
        """Embed images whose regions are known, at least one."""

    @abstractmethod
    def load(self) -> None:
        """Load now what the first query needs."""


def read_tokenizer(folder: Path, record: QueryRecord) -> Tokenizer:
    """Read the tokenizer of a model: that in its folder, or else that of its text model.

    Raises:
        FileNotFoundError: The text model is not on this machine.
        ValueError: Its tokenizer is another one.
    """
    own = folder / TOKENIZER
    path = own if own.is_file() else find_text_folder(record.text.model) / TOKENIZER
    if not path.is_file() or sha256_file(path) != record.tokenizer_sha256:
        raise ValueError(f"{path} is not the tokenizer of the model {folder.name}. Restore the file.")
    return Tokenizer(path.read_text(encoding="utf-8"), record.max_tokens)


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
        self._tokenizer = read_tokenizer(folder, record)
        self.unknown_id = record.unknown_id

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""
        return self._tokenizer(texts)

    def find_words(self, text: str) -> list[Word]:
        """Find the words of a text in its tokens."""
        return self._tokenizer.find_words(text)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, at least one."""
        return self._side.embed_token_ids(self._tokenizer(texts))

    def embed_images(self, images: Sequence[ImageRegions]) -> Embeddings:
        """Embed images whose regions are known, at least one."""
        return self._side.embed_images(images)

    def load(self) -> None:
        """Open both graphs."""
        self._side.open_captions()
        self._side.open_images()
