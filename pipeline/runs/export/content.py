"""What a model package is written from, and the choices of the user."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.datasets import Dataset
from data.manifest import Recipe
from pipeline.plans import Plan
from pipeline.plans.extractor_settings import describe_extractor, describe_imported_features, find_weights_file
from tern.card import (
    ModelCard,
    PackageExtractor,
    PackageExtractors,
    PackageOrigin,
    read_package_config,
)
from tern.evaluation import Evaluation
from tern.query import Calibration


@dataclass(frozen=True)
class ExportOptions:
    """What an export writes."""

    half: bool = False
    """Whether matrices are stored in float16."""
    with_detector: bool = False
    """Whether the file of the weights of the region extractor is copied into the package."""
    license: str = "other"
    """License in the card of the package, as the Hugging Face hub names it."""
    notes: str = ""
    """Markdown text of the author for the card of the package."""
    force: bool = False
    """Whether an existing package is replaced."""


@dataclass(frozen=True)
class PackageContent:
    """What a package is written from."""

    model: Any
    """Module of torch."""
    card: ModelCard
    extractors: PackageExtractors
    origin: PackageOrigin
    evaluation: Evaluation
    """Figures on the dataset `evaluated_on`."""
    evaluated_on: str = ""
    """Name of the dataset of the figures and of the calibration queries."""
    calibration: Calibration | None = None
    detector: Path | None = None
    """File of the weights of the region extractor, to copy; None: it is not copied."""


def describe_extractors(plan: Plan, regions: Recipe, tokens: Recipe, with_detector: bool = False) -> PackageExtractors:
    """Describe the extractors of a plan.

    Args:
        plan: The plan.
        regions: Recipe of the region store of the model.
        tokens: Recipe of its token store.
        with_detector: Whether the weights of the region extractor are in the package.
    """
    source = plan.regions_store or (plan.regions_file.path if plan.regions_file else None)
    region_extractor: PackageExtractor = (
        describe_extractor(plan.regions, regions, with_detector)
        if source is None
        else describe_imported_features(regions, source.name)
    )
    return PackageExtractors(regions=region_extractor, text=describe_extractor(plan.text, tokens))


def find_detector(plan: Plan) -> Path:
    """Return the file of the weights of the region extractor, for a copy in the package.

    Raises:
        ValueError: There is no such file, or it may not be in a package.
    """
    path = None if plan.regions_store or plan.regions_file else find_weights_file(plan.regions)
    if path is None:
        raise ValueError(
            "The weights of the region extractor have a published name instead of a path, so every machine finds them "
            "by that name. Leave out --with-detector."
        )
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is not a .safetensors file, and a package contains no pickles. Convert it (`tern weights "
            "convert`), or leave out --with-detector."
        )
    return path


def describe_origin(model: Path, card: ModelCard, dataset: Dataset) -> PackageOrigin:
    """Describe where the weights of a model come from.

    Args:
        model: Folder of the model.
        card: Its card.
        dataset: Dataset of the workspace, which the model was trained on unless it was imported.
    """
    program = version("tern-retrieval")
    if card.checkpoint is not None:  # it was not trained here
        package = read_package_config(model)
        origin = PackageOrigin() if package is None else package.origin
        return origin.model_copy(
            update={"program": program, "model": model.name, "checkpoint": card.checkpoint, "sha256": card.sha256}
        )
    return PackageOrigin(
        program=program,
        model=model.name,
        dataset=dataset.name,
        images=dataset.count_images_by_split(),
        captions=len(dataset.captions),
        epoch=card.epoch,
        training=card.config.model_dump(mode="json", exclude_defaults=True) if card.config else None,
    )
