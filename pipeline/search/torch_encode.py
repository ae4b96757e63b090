"""Query vectors in torch, for a model without a query side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.manifest import Recipe
from extractors.config import TextConfig
from extractors.text import TextExtractor
from pipeline.search.model_encoder import ModelEncoder
from pipeline.stages.embed import load_trained_model
from tern.model import caption_field, embed_new_captions, embed_new_images
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
        self.unknown_id = self._extractor.unknown_id

    @property
    def recipe(self) -> Recipe:
        """Recipe of the token store of the text extractor."""
        return self._extractor.recipe

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""
        return self._extractor.tokenize(list(texts))

    @torch_threads(1)  # as for stored items
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: (n, e) float32 of unit length."""
        field = caption_field(self._model)
        return embed_new_captions(self._model, [getattr(item, field) for item in self._extractor(list(texts))])

    @torch_threads(1)  # as for stored items
    def embed_images(self, images: Sequence[ImageRegions]) -> np.ndarray:
        """Embed images whose regions are known: (n, e) float32 of unit length."""
        return embed_new_images(self._model, images)

    def load(self) -> None:
        """Do nothing: everything is loaded."""
