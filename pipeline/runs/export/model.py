"""Export of a model of a workspace, or of a checkpoint of the authors of TERN or TERAN, as a model package."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from data.store import Store
from extractors.text import TextEncoder
from pipeline.plans import Plan
from pipeline.runs.existing import read_vectors
from pipeline.runs.export.calibration import make_calibration
from pipeline.runs.export.content import (
    ExportOptions,
    PackageContent,
    describe_extractors,
    describe_origin,
    find_detector,
)
from pipeline.runs.export.folder import check_output, write_package
from pipeline.stages.dataset import HELD_OUT, splits_with_captions
from pipeline.stages.embed import load_trained_model
from pipeline.stages.evaluate import read_or_compute_evaluation
from pipeline.stages.extractors import get_extractor
from pipeline.stages.results import Vectors
from pipeline.stages.train import check_extractors
from pipeline.workspace import Workspace
from tern.card import METRICS, ModelPackage, PackageOrigin, read_model_card
from tern.evaluation import Evaluation, read_evaluation
from tern.model import FeatureSource, check_checkpoint_file, load_checkpoint_model
from tern.query import Calibration, read_calibration


def export_model(
    plan: Plan, output: Path, options: ExportOptions, model: str | None, on_message: Callable[[str], None]
) -> ModelPackage:
    """Write a trained model of a workspace as a package.

    Args:
        plan: The plan.
        output: Folder of the package.
        options: What is written.
        model: Name of the model; None: that of the published version, or without one the only one with vectors.
        on_message: Called with a line of text about what is read.

    Returns:
        The package.

    Raises:
        FileExistsError: The folder exists, and `options.force` is false.
        FileNotFoundError: There is no model with vectors.
        ValueError: The folder is not one for a package, or the extractors of the plan are not those of the model.
    """
    check_output(output, options.force, plan)
    detector = find_detector(plan) if options.with_detector else None
    vectors = read_vectors(plan, model, on_message)
    dataset, card = vectors.features.dataset, read_model_card(vectors.model)
    recipes = Store(vectors.features.regions).recipe, Store(vectors.features.tokens).recipe
    extractors = describe_extractors(plan, *recipes, detector is not None)
    check_extractors(extractors, f"the model {vectors.model.name}", plan)
    evaluation, calibration = _measure(plan, vectors)
    origin = describe_origin(vectors.model, card, dataset)
    content = PackageContent(
        model=load_trained_model(vectors.model, plan.text),
        card=card,
        extractors=extractors,
        origin=origin,
        evaluation=evaluation,
        evaluated_on=origin.dataset or dataset.name,
        calibration=calibration,
        text=plan.text,
        detector=detector,
    )
    return write_package(output, content, options)


def _measure(plan: Plan, vectors: Vectors) -> tuple[Evaluation, Calibration | None]:
    """Return the figures and the calibration queries of a model: those of its package if it was imported from one."""
    path = vectors.model / METRICS
    if path.is_file() and (carried := read_evaluation(path)).splits:
        return carried, read_calibration(vectors.model)
    dataset = vectors.features.dataset
    if not splits_with_captions(dataset, HELD_OUT):
        return Evaluation(splits={}), None
    evaluation = read_or_compute_evaluation(vectors, dataset, Workspace(plan.workspace), plan.evaluate)
    return evaluation, make_calibration(vectors, dataset)


def export_checkpoint(plan: Plan, checkpoint: Path, output: Path, options: ExportOptions) -> ModelPackage:
    """Write a checkpoint of the authors of TERN or TERAN as a package, with the extractors of a plan.

    The widths of the features are compared, and names and shapes of BERT's weights. That the checkpoint was trained on
    features of these extractors is up to the caller. The package has no figures and no calibration.

    Args:
        plan: Plan whose extractors are recorded; its weights are loaded.
        checkpoint: Checkpoint file.
        output: Folder of the package.
        options: What is written.

    Raises:
        FileExistsError: The folder exists, and `options.force` is false.
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The checkpoint cannot be read, or the extractors of the plan do not fit to it.
    """
    check_output(output, options.force, plan)
    check_checkpoint_file(checkpoint)  # the extractors take longer to load
    if plan.regions_store is not None or plan.regions_file is not None:
        raise ValueError("A package needs an extractor for new images. Choose a plan with a table [regions].")
    detector = find_detector(plan) if options.with_detector else None
    regions, tokens = (
        FeatureSource(f"the extractor of [{table}]", extractor.recipe, extractor.dim)
        for table, extractor in (("regions", get_extractor(plan.regions)), ("text", get_extractor(plan.text)))
    )
    model, card = load_checkpoint_model(checkpoint, regions, tokens, lambda: TextEncoder(plan.text))
    content = PackageContent(
        model=model,
        card=card,
        extractors=describe_extractors(plan, regions.recipe, tokens.recipe, detector is not None),
        origin=PackageOrigin(program=version("tern-retrieval"), checkpoint=card.checkpoint, sha256=card.sha256),
        evaluation=Evaluation(splits={}),
        text=plan.text,
        detector=detector,
    )
    return write_package(output, content, options)
