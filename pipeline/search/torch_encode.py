"""Query vectors in torch, for a model without a query side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.alignment import Embeddings
from data.manifest import Recipe
from extractors.config import TextConfig
from extractors.text import TextEncoder, TextExtractor
from extractors.torch_free import Tokenizer, Word, is_cpu
from pipeline.search.model_encoder import ModelEncoder
from pipeline.stages.embed import load_trained_model
from tern.model import CaptionNetwork, caption_field, embed_new_captions, embed_new_images, embed_token_ids
from tern.parallel import torch_threads
from tern.query import ImageRegions


class TorchEncoder(ModelEncoder):
    """A model and a text extractor in torch.

    Args:
        folder: Folder of the model.
        text: Config of its text extractor.

    Raises:
        FileNotFoundError: The model or the text model is missing.
    """

    def __init__(self, folder: Path, text: TextConfig) -> None:
        self._model: Any = load_trained_model(folder, text)
        self._extractor = TextExtractor(text)
        self._tokenizer = Tokenizer(self._extractor.tokenizer_rules, text.max_tokens)
        self.unknown_id = self._extractor.unknown_id
        is_fine_tuned = caption_field(self._model) == "token_ids"
        self._network: CaptionNetwork | None = None  # of an extractor that computes in bfloat16 or on a GPU
        if is_fine_tuned or (text.dtype == "float32" and is_cpu(text.device)):
            encoder = None if is_fine_tuned else TextEncoder(text, self._extractor)
            self._network = CaptionNetwork(self._model, encoder).eval()

    @property
    def recipe(self) -> Recipe:
        """Recipe of the token store of the text extractor."""
        return self._extractor.recipe

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""
        return self._extractor.tokenize(list(texts))

    def find_words(self, text: str) -> list[Word]:
        """Find the words of a text in its tokens."""
        return self._tokenizer.find_words(text)

    @torch_threads(1)  # as for stored items
    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, at least one."""
        if self._network is None:
            return embed_new_captions(self._model, [item.features for item in self._extractor(list(texts))])
        return embed_token_ids(self._network, self.tokenize(texts))

    @torch_threads(1)  # as for stored items
    def embed_images(self, images: Sequence[ImageRegions]) -> Embeddings:
        """Embed images whose regions are known, at least one."""
        return embed_new_images(self._model, images)

    def load(self) -> None:
        """Do nothing: everything is loaded."""
