"""Query vectors of new texts and photos, computed as the vectors of stored captions and images were."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from data.images import DecodeLimits, crop_image, load_reduced_image
from data.io import digest
from data.manifest import Recipe, is_store, read_store_manifest
from data.text import printable
from extractors.nn import machine_independent
from extractors.regions import RegionExtractor
from extractors.registry import build_region_extractor
from extractors.text import TextExtractor
from pipeline.plans.plan import Plan
from pipeline.search.query import Box
from pipeline.stages.embed import load_trained_model
from pipeline.stages.origin import Origin
from pipeline.workspace import Workspace
from tern.model import caption_field, embed_new_captions, embed_new_images
from tern.parallel import torch_threads

MAX_QUERY_CHARACTERS = 2_000
MAX_PHOTO_PIXELS = 6_000_000  # of a photo that is decoded at full size; a detector takes about 36 bytes per pixel
MIN_PHOTO_SIDE = 1_600  # pixels; maximum side of a larger photo after decoding
CROPPED_PHOTO_SIDE = 2_400  # pixels; that of a larger photo of which a region is used
PHOTO_LIMITS = DecodeLimits(max_full_pixels=24_000_000, max_scanned_pixels=640_000_000)
ImageRegions = tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]
"""Features (r, d), boxes (r, 4) in pixels, (width, height) in pixels, and scores (r,) of the regions of one image."""


class EncoderPool:
    """The models and extractors of a plan, each loaded once and shared by all versions of the index that are open.

    An extractor stays loaded. A model stays loaded while an encoder uses it. Safe to share between threads.

    Args:
        plan: Plan whose extractors are used.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._lock = plan, threading.Lock()
        self._models: WeakValueDictionary[str, Any] = WeakValueDictionary()
        # Each extractor with the names of its stores: a recipe contains the hash of all weights, which takes 0.1 s.
        self._text: TextExtractor | None = None
        self._regions: RegionExtractor | None = None

    def get_model(self, name: str) -> Any:
        """Return the model of that name, in eval mode.

        Raises:
            FileNotFoundError: The model is not in the workspace.
        """
        with self._lock:
            model = self._models.get(name)
            if model is None:
                folder = Workspace(self._plan.workspace).models / name
                model = self._models[name] = load_trained_model(folder, self._plan.text)
            return model

    def get_text_extractor(self, name: str) -> TextExtractor:
        """Return the text extractor of the plan.

        Raises:
            ValueError: It is not the one that made the token store `name`.
        """
        with self._lock:
            self._text = self._text or TextExtractor(self._plan.text)
        self._check_extractor(self._text.recipe, name, "text")
        return self._text

    def get_region_extractor(self, name: str) -> RegionExtractor:
        """Return the region extractor of the plan; it must have made the region store `name`."""
        with self._lock:
            self._regions = self._regions or build_region_extractor(self._plan.regions)
        self._check_extractor(self._regions.recipe, name, "regions")
        return self._regions

    def _check_extractor(self, recipe: Recipe, store: str, table: str) -> None:
        """Raise ValueError if an extractor is not the one of a store, apart from the device it runs on.

        A model package is made for other machines: for it, the extractor may also compute in another precision.
        """
        names = _list_store_names(store.partition("-")[0], recipe)
        if store in names or (self._plan.model is not None and self._is_variant(recipe, store)):
            return
        raise ValueError(
            f"The index was built from {store}, but the table [{table}] of the plan configures another extractor "
            f"({names[0]}), or an older version of this program built the index. Run `tern index` with this plan first."
        )

    def _is_variant(self, recipe: Recipe, store: str) -> bool:
        folder = Workspace(self._plan.workspace).stores / store
        stored = read_store_manifest(folder).recipe if is_store(folder) else None
        return stored is not None and machine_independent(stored) == machine_independent(recipe)


class QueryEncoder:
    """The model and the extractors of an index. The extractors are loaded when the first query needs them.

    Args:
        plan: Plan whose extractors are used.
        origin: Names of the model and the stores that the index was built from.
        pool: Loaded models and extractors of the plan.

    Raises:
        FileNotFoundError: The model is not in the workspace.
    """

    def __init__(self, plan: Plan, origin: Origin, pool: EncoderPool) -> None:
        self._origin, self._pool = origin, pool
        self._model = pool.get_model(origin.model)
        self._photo_side = max(MIN_PHOTO_SIDE, getattr(plan.regions, "max_size", None) or 0)

    def load_text_extractor(self) -> None:
        """Load the text extractor now instead of at the first query.

        Raises:
            ValueError: The text extractor of the plan is not the one of the index.
        """
        self._pool.get_text_extractor(self._origin.tokens)

    @torch_threads(1)  # as for stored items
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed text queries in one pass.

        Returns:
            Vectors (n, e), float32 of unit length.

        Raises:
            ValueError: A text is empty or longer than `MAX_QUERY_CHARACTERS`, the model knows no part of it, or the
                text extractor of the plan is not the one of the index.
        """
        cleaned = [self._clean(text) for text in texts]
        tokens = self._pool.get_text_extractor(self._origin.tokens)(cleaned)
        field = caption_field(self._model)
        return embed_new_captions(self._model, [getattr(item, field) for item in tokens])

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())
        if not text or len(text) > MAX_QUERY_CHARACTERS:
            raise ValueError(
                f"The query has {len(text):,} characters; it must have 1 to {MAX_QUERY_CHARACTERS:,} characters. "
                "Enter a longer or shorter text."
            )
        if not self.knows(text):  # every such text has the same vector
            raise ValueError(
                f"The model knows no part of the query '{printable(text[:80])}', so that any hit would be arbitrary. "
                "Describe the image in words of the language of the text model."
            )
        return text

    def knows(self, text: str) -> bool:
        """Return whether the model knows a part of a text."""
        num_unknown, num_tokens = self._pool.get_text_extractor(self._origin.tokens).count_unknown(text)
        return num_unknown < num_tokens

    def describe_unknown(self, text: str) -> str:
        """Return a note about the words of a query that the model does not know; empty if it knows all of them."""
        num_unknown, num_tokens = self._pool.get_text_extractor(self._origin.tokens).count_unknown(text)
        return f"The model does not know {num_unknown} of the {num_tokens} parts of the query." if num_unknown else ""

    @torch_threads(1)  # as for stored items
    def embed_photo(self, photo: Path | bytes, box: Box | None = None) -> np.ndarray:
        """Detect the regions of a photo, or of a part of it, and embed it.

        A photo of more than `MAX_PHOTO_PIXELS` is reduced while it is decoded, to a size above the input of the
        detector. For an extractor with a smaller input it is decoded as the stored images were, with the same result.

        Args:
            photo: Image file, or its content.
            box: Part that is cut out and embedded as if it were a photo of its own; None is the whole photo.

        Returns:
            Vector (1, e), float32 of unit length.

        Raises:
            ValueError: The photo is not a readable image or exceeds `PHOTO_LIMITS`, the box is not a region of it, or
                the region extractor of the plan is not the one of the index.
        """
        extractor = self._pool.get_region_extractor(self._origin.regions)
        if box is not None:
            sides = (CROPPED_PHOTO_SIDE, CROPPED_PHOTO_SIDE)
            image = crop_image(load_reduced_image(photo, sides, PHOTO_LIMITS, MAX_PHOTO_PIXELS), box)
        elif extractor.min_decoded_side is None:  # a detector takes more memory per pixel than the decoder
            image = load_reduced_image(photo, (self._photo_side, self._photo_side), PHOTO_LIMITS, MAX_PHOTO_PIXELS)
        else:
            image = extractor.load(photo, PHOTO_LIMITS)
        regions = extractor.extract_reduced(image)
        return self.embed_regions([(regions.features, regions.boxes, regions.size, regions.scores)])

    @torch_threads(1)  # as for stored items
    def embed_regions(self, images: Sequence[ImageRegions]) -> np.ndarray:
        """Embed images whose regions are known.

        Returns:
            Vectors (n, e), float32 of unit length, one per image.
        """
        return embed_new_images(self._model, images)


def _list_store_names(kind: str, recipe: Recipe) -> tuple[str, ...]:
    """List the names of the stores of an extractor: that of its recipe first, then those of other devices."""
    cpu_recipe = {key: value for key, value in recipe.items() if key != "device"}
    return tuple(f"{kind}-{digest(variant)}" for variant in (recipe, cpu_recipe, cpu_recipe | {"device": "cuda"}))
