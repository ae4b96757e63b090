"""Train of `pipeline`."""

from pathlib import Path

from data.datasets import Dataset
from data.store import Store
from extractors.config import TextConfig
from extractors.text import MEAN_LAST_4, TextEncoder
from pipeline.workspace import Workspace
from tern.card import read_model_card
from tern.config import TrainConfig
from tern.model import check_checkpoint_file, load_bert_weights, load_paper_checkpoint
from tern.model import import_checkpoint as adopt_authors
from tern.parallel import resolve_device
from tern.training import OnEpoch, TrainingInputs, fingerprint
from tern.training import train as train_tern


def train_model(
    config: TrainConfig,
    regions: Path,
    tokens: Path,
    dataset: Dataset,
    workspace: Path,
    on_epoch: OnEpoch | None = None,
    text: TextConfig | None = None,
) -> Path:
    """Train TERN, or go on where a run of this very config and data was stopped. Returns the model's folder.

    `text` is what the tokens were extracted with, for a config with `fine_tune`.
    """
    inputs = TrainingInputs(Store(regions), Store(tokens), dataset)
    name = fingerprint(inputs, config)
    folder, device = Workspace(workspace).models / f"tern-{name}", resolve_device(config.device)
    encoder = TextEncoder(text) if config.fine_tune and text else None
    return train_tern(inputs, config, folder, on_epoch, device, encoder)


def check_checkpoint(checkpoint: Path, text: TextConfig, workspace: Path) -> None:
    """What can be told of a checkpoint before any feature is extracted for it; nothing of one that was adopted before.

    Raises:
        FileNotFoundError: no such file
        ValueError: it cannot be read, or its BERT is not the one in [text], or that gives a mean of several layers,
            where the authors' networks read one
    """
    check_checkpoint_file(checkpoint)
    if text.layer == MEAN_LAST_4:
        raise ValueError(
            f"text.layer is {MEAN_LAST_4!r}, and {checkpoint} was trained on one layer: text.layer=6 is the authors'"
        )
    models = Workspace(workspace)
    cards = (read_model_card(models.model(name)) for name in models.list_models())
    if any(card.checkpoint == checkpoint.name for card in cards):
        return
    _, bert = load_paper_checkpoint(checkpoint)
    if bert:
        load_bert_weights(TextEncoder(text), bert, checkpoint)


def import_paper_checkpoint(checkpoint: Path, regions: Path, tokens: Path, workspace: Path, text: TextConfig) -> Path:
    """The model of one of the authors' checkpoints, used as it is. Returns its folder."""
    stores = Store(regions), Store(tokens)
    return adopt_authors(checkpoint, Workspace(workspace).models, *stores, lambda: TextEncoder(text))
