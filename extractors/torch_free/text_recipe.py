"""Recipes of text extractors in the cache folder: a recipe contains the hash of all weights, and needs torch."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from data.io import digest, read_json, sha256_file, write_json
from data.manifest import Recipe
from data.settings import find_cache_folder
from extractors.config import TextConfig
from extractors.torch_free.text_folder import find_text_folder

TEXT_VERSION = 3  # raise it when equal settings give other numbers: the recipe, and so the store name, contains it
FOLDER = "recipes"
WEIGHTS = "model.safetensors"
LIBRARIES = ("torch", "transformers", "tokenizers")


class TextRecipeCache:
    """The place in the cache folder of the recipe of a text extractor.

    The name follows from the settings and from the bytes of all files that the extractor reads.

    Args:
        config: Settings of the extractor.
    """

    def __init__(self, config: TextConfig) -> None:
        self._key = _make_key(config)
        self._path = None if self._key is None else find_cache_folder() / FOLDER / f"text-{digest(self._key)}.json"

    def read(self) -> Recipe | None:
        """Read the recipe; None if it is not there."""
        if self._path is None:
            return None
        try:
            content = read_json(self._path)
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("key") != self._key or not isinstance(content["recipe"], dict):
            return None
        recipe: Recipe = content["recipe"]
        return recipe

    def write(self, recipe: Recipe) -> None:
        """Write the recipe, where that is possible."""
        if self._path is None:
            return
        try:
            write_json(self._path, {"key": self._key, "recipe": recipe})
        except OSError:  # without the cache, the next process computes the recipe again
            return


def _make_key(config: TextConfig) -> dict[str, Any] | None:
    """Return what determines a recipe; None for a model that is not in one folder with one file of weights."""
    try:
        folder = find_text_folder(config.model)
    except FileNotFoundError:  # the extractor says what to do
        return None
    if not (folder / WEIGHTS).is_file():
        return None
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model") or path.name == WEIGHTS]
    settings = config.model_dump(mode="json", exclude={"model"})
    hashes = {path.name: sha256_file(path) for path in sorted(files) if path.is_file()}
    return {"version": TEXT_VERSION, "settings": settings, "files": hashes} | {
        "libraries": {name: version(name) for name in LIBRARIES}
    }
