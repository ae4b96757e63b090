"""The extractors of a plan as a model package records them: settings, without those of a machine and without paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data.manifest import Recipe
from extractors.config import MACHINE_KEYS, TextConfig
from tern.card import DETECTOR, PackageExtractor, PackagePath

PATH_SETTINGS = ("weights", "model", "vocabulary_dir")
NAMES = ("DEFAULT", "demo", "minilm", "photos")  # that are never paths
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl", ".yaml")


def describe_extractor(config: BaseModel, recipe: Recipe, include_weights: bool = False) -> PackageExtractor:
    """Describe an extractor of a plan for a model package.

    Args:
        config: Settings of the extractor.
        recipe: Recipe of the store that the model was trained on.
        include_weights: Whether the file of its weights is copied into the package.
    """
    settings = config.model_dump(mode="json", exclude=set(MACHINE_KEYS))
    paths = {key: str(settings[key]) for key in PATH_SETTINGS if _is_path(getattr(config, key, None))}
    weights = "model" if isinstance(config, TextConfig) else "weights"
    return PackageExtractor(
        settings={key: value for key, value in settings.items() if key not in paths},
        paths={
            key: PackagePath(name=Path(path).name, file=DETECTOR if include_weights and key == weights else None)
            for key, path in paths.items()
        },
        recipe=recipe,
        weights_sha256=recipe.get("weights_sha256"),
        source=Path(str(settings[weights])).name if weights in paths else str(settings[weights]),
    )


def describe_imported_features(recipe: Recipe, source: str) -> PackageExtractor:
    """Describe features that another program extracted, for a model package."""
    return PackageExtractor(settings=None, recipe=recipe, weights_sha256=None, source=source)


def find_weights_file(config: BaseModel) -> Path | None:
    """Return the file of the weights of a region extractor; None if they have a name."""
    weights = getattr(config, "weights", None)
    return Path(str(weights)) if _is_path(weights) else None


def _is_path(value: Any) -> bool:
    if value is None or value in NAMES:
        return False
    return isinstance(value, Path) or str(value).endswith(WEIGHT_SUFFIXES) or os.path.lexists(str(value))
