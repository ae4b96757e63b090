"""Training stage: train a model on the stores, or import a model package or a published checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from data.datasets import Dataset
from data.io import digest
from data.manifest import Recipe
from data.store import Store
from extractors.config import TextConfig, machine_independent
from pipeline.plans.plan import Plan
from pipeline.stages.extractors import get_recipe
from pipeline.workspace import Workspace
from tern.card import MODEL_CARD, ModelPackage, PackageExtractor, PackageExtractors, read_model_card
from tern.config import TrainConfig

if TYPE_CHECKING:
    from tern.training import OnEpoch  # lazy: torch takes seconds to import


def train_model(
    config: TrainConfig,
    regions: Path,
    tokens: Path,
    dataset: Dataset,
    workspace: Workspace,
    on_epoch: "OnEpoch | None" = None,
    text: TextConfig | None = None,
) -> Path:
    """Train a model, or resume an interrupted training of the same settings and data.

    Args:
        config: Settings of the training.
        regions: Folder of the region store.
        tokens: Folder of the token store.
        dataset: Valid dataset: all its items are in the stores.
        workspace: Workspace that the model is written to.
        on_epoch: Called after each epoch with its progress.
        text: Config that the tokens were extracted with; needed if `config.fine_tune` is set.

    Returns:
        The folder of the model.
    """
    from extractors.text import TextEncoder  # lazy: torch takes seconds to import, and not every run trains
    from tern.parallel import resolve_device  # lazy: torch takes seconds to import
    from tern.training import TrainingInputs, train  # lazy: torch takes seconds to import

    inputs, device = TrainingInputs(Store(regions), Store(tokens), dataset), resolve_device(config.device)
    folder = find_trained_model(config, regions, tokens, dataset, workspace)
    encoder = TextEncoder(text) if config.fine_tune and text else None
    return train(inputs, config, folder, on_epoch, device, encoder)


def _choose_model_folder(base: Path, device: str) -> Path:
    """Return the folder of a training on this hardware, or else of the same training that finished on other hardware.

    A model that was trained on a GPU or under torchrun is used by later commands that run without them.
    """
    from tern.training import describe_hardware  # lazy: as in `train_model`

    folder = base.with_name(base.name + describe_hardware(device))
    if (folder / MODEL_CARD).is_file():
        return folder
    finished = (path.parent for path in sorted(base.parent.glob(f"{base.name}*/{MODEL_CARD}")))
    return next(finished, folder)


def find_trained_model(
    config: TrainConfig, regions: Path, tokens: Path, dataset: Dataset, workspace: Workspace
) -> Path:
    """Return the folder of the model that `train_model` returns for the same arguments; it need not exist."""
    from tern.parallel import resolve_device  # lazy: as in `train_model`
    from tern.training import TrainingInputs, fingerprint  # lazy: torch takes seconds to import

    inputs = TrainingInputs(Store(regions), Store(tokens), dataset)
    name = f"tern-{fingerprint(inputs, config)}"
    return _choose_model_folder(workspace.models / name, resolve_device(config.device))


def check_checkpoint(checkpoint: Path, text: TextConfig, workspace: Workspace) -> None:
    """Check a checkpoint before features are extracted for it.

    A checkpoint that was imported into the workspace before is not read again.

    Args:
        checkpoint: Checkpoint file of the authors of TERN or TERAN.
        text: Config of the text extractor.
        workspace: Workspace that the checkpoint will be imported into.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file cannot be read, its BERT is not the one of `text`, or `text` averages several layers.
    """
    from extractors.text import TextEncoder  # lazy: as in `train_model`
    from tern.model import (  # lazy: torch takes seconds to import
        check_checkpoint_file,
        load_bert_weights,
        load_paper_checkpoint,
    )

    check_checkpoint_file(checkpoint)
    if not isinstance(text.layer, int):
        raise ValueError(
            f"text.layer is {text.layer!r}, but {checkpoint} was trained on one layer. Set text.layer=6, the layer "
            "of the authors."
        )
    cards = (read_model_card(workspace.model(name)) for name in workspace.list_models())
    if any(card.checkpoint == checkpoint.name for card in cards):
        return
    _, bert_weights = load_paper_checkpoint(checkpoint)
    if bert_weights:
        load_bert_weights(TextEncoder(text), bert_weights, checkpoint)


def import_paper_checkpoint(
    checkpoint: Path, regions: Path, tokens: Path, workspace: Workspace, text: TextConfig
) -> Path:
    """Import a checkpoint of the authors of TERN or TERAN as a model, without training.

    Args:
        checkpoint: Checkpoint file of the authors of TERN or TERAN.
        regions: Folder of the region store.
        tokens: Folder of the token store.
        workspace: Workspace of the model.
        text: Config of the text extractor.

    Returns:
        The folder of the model.
    """
    from extractors.text import TextEncoder  # lazy: as in `train_model`
    from tern.model import import_checkpoint  # lazy: torch takes seconds to import

    return import_checkpoint(checkpoint, workspace.models, Store(regions), Store(tokens), lambda: TextEncoder(text))


def check_extractors(extractors: PackageExtractors, model: str, plan: Plan) -> None:
    """Check, before features are extracted, that the extractors of a plan are those of a model.

    Args:
        extractors: Extractors of the model.
        model: What the model is, for the message.
        plan: The plan.

    Raises:
        ValueError: They are others: the features would mean nothing to the model.
    """
    if plan.regions_store is None and plan.regions_file is None:
        _check_same_extractor(extractors.regions, model, "regions", get_recipe(plan.regions))
    _check_same_extractor(extractors.text, model, "text", get_recipe(plan.text))


def import_model_package(
    package: ModelPackage, regions: Path, tokens: Path, workspace: Workspace, text: TextConfig
) -> Path:
    """Import a model package as a model, without training.

    Args:
        package: The package.
        regions: Folder of the region store.
        tokens: Folder of the token store.
        workspace: Workspace of the model.
        text: Config of the text extractor.

    Returns:
        The folder of the model.

    Raises:
        ValueError: The package is damaged, or the stores come from other extractors.
    """
    stores, name = (Store(regions), Store(tokens)), f"the model package {package.name}"
    _check_same_extractor(package.extractors.regions, name, "regions", stores[0].recipe)
    _check_same_extractor(package.extractors.text, name, "text", stores[1].recipe)
    folder = workspace.models / package.name_model(*(digest(store.recipe) for store in stores))
    if (folder / MODEL_CARD).is_file():
        return folder
    from extractors.text import TextEncoder  # lazy: as in `train_model`
    from tern.model import import_package  # lazy: torch takes seconds to import

    return import_package(package, workspace.models, *stores, lambda: TextEncoder(text))


def _check_same_extractor(extractor: PackageExtractor, model: str, table: str, recipe: Recipe) -> None:
    """Raise ValueError if a recipe is not that of an extractor of a model, apart from what machines decide."""
    if extractor.settings is None:  # features of another program, whose recipe names their files
        return
    expected, actual = machine_independent(extractor.recipe), machine_independent(recipe)
    differing = sorted(key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"The features of [{table}] are not those of {model}: {key} is {_shorten(actual.get(key))}, but "
            f"{_shorten(expected.get(key))} is expected. Use the extractor and the weights of the model, or another "
            "model."
        )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
