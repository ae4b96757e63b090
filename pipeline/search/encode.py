"""Query vectors of new texts and photos, computed as the vectors of stored captions and images were."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from data.images import load_image
from data.io import digest
from data.manifest import Recipe
from data.text import printable
from extractors.regions import RegionExtractor
from extractors.registry import build_region_extractor
from extractors.text import TextExtractor
from pipeline.plans.plan import Plan
from pipeline.stages.embed import load_trained_model
from pipeline.stages.origin import Origin
from pipeline.workspace import Workspace
from tern.model import caption_field, embed_new_captions, embed_new_images
from tern.parallel import torch_threads

MAX_QUERY_CHARACTERS = 2_000
ImageRegions = tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]
"""Features (r, d), boxes (r, 4) in pixels, (width, height) in pixels, and scores (r,) of the regions of one image."""


class QueryEncoder:
    """The model and the extractors of an index. The extractors are loaded when the first query needs them.

    Args:
        plan: Plan whose extractors are used.
        origin: Names of the model and the stores that the index was built from.

    Raises:
        FileNotFoundError: The model is not in the workspace.
    """

    def __init__(self, plan: Plan, origin: Origin) -> None:
        self._plan, self._origin = plan, origin
        self._model = load_trained_model(Workspace(plan.workspace).models / origin.model, plan.text)

    @torch_threads(1)  # as for stored items
    def embed_text(self, text: str) -> np.ndarray:
        """Embed a text query.

        Returns:
            Vector (1, e), float32 of unit length.

        Raises:
            ValueError: The text is empty or longer than `MAX_QUERY_CHARACTERS`, the model knows no part of it, or the
                text extractor of the plan is not the one of the index.
        """
        text = " ".join(text.split())
        if not text or len(text) > MAX_QUERY_CHARACTERS:
            raise ValueError(
                f"The query has {len(text):,} characters; it must have 1 to {MAX_QUERY_CHARACTERS:,} characters. "
                "Enter a longer or shorter text."
            )
        if not self.knows(text):  # every such text has the same vector
            raise ValueError(
                f"The model knows no part of the query {printable(text[:80])!r}, so that any hit would be arbitrary. "
                "Describe the image in words of the language of the text model."
            )
        (tokens,) = self._text_extractor([text])
        return embed_new_captions(self._model, [getattr(tokens, caption_field(self._model))])

    def knows(self, text: str) -> bool:
        """Return whether the model knows a part of a text."""
        num_unknown, num_tokens = self._text_extractor.count_unknown(text)
        return num_unknown < num_tokens

    def describe_unknown(self, text: str) -> str:
        """Return a note about the words of a query that the model does not know; empty if it knows all of them."""
        num_unknown, num_tokens = self._text_extractor.count_unknown(text)
        return f"The model does not know {num_unknown} of the {num_tokens} parts of the query." if num_unknown else ""

    @torch_threads(1)  # as for stored items
    def embed_photo(self, path: Path) -> np.ndarray:
        """Detect the regions of a photo and embed it.

        Returns:
            Vector (1, e), float32 of unit length.

        Raises:
            ValueError: The file is not a readable image, or the region extractor of the plan is not the one of the
                index.
        """
        regions = self._region_extractor([load_image(path)])[0]
        return self.embed_regions([(regions.features, regions.boxes, regions.size, regions.scores)])

    @torch_threads(1)  # as for stored items
    def embed_regions(self, images: Sequence[ImageRegions]) -> np.ndarray:
        """Embed images whose regions are known.

        Returns:
            Vectors (n, e), float32 of unit length, one per image.
        """
        return embed_new_images(self._model, images)

    @cached_property
    def _text_extractor(self) -> TextExtractor:
        extractor = TextExtractor(self._plan.text)
        _check_extractor("tokens", extractor.recipe, self._origin.tokens, "text")
        return extractor

    @cached_property
    def _region_extractor(self) -> RegionExtractor:
        extractor = build_region_extractor(self._plan.regions)
        _check_extractor("regions", extractor.recipe, self._origin.regions, "regions")
        return extractor


def _check_extractor(kind: str, recipe: Recipe, expected: str, table: str) -> None:
    """Raise ValueError if an extractor is not the one of a store, apart from the device it runs on."""
    cpu_recipe = {key: value for key, value in recipe.items() if key != "device"}
    names = [f"{kind}-{digest(variant)}" for variant in (recipe, cpu_recipe, cpu_recipe | {"device": "cuda"})]
    if expected not in names:
        raise ValueError(
            f"The index was built from {expected}, but the table [{table}] of the plan configures another extractor "
            f"({names[0]}). Run `tern index` with this plan first."
        )
