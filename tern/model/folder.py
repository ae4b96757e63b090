"""Folder of `tern`."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from data.io import atomic_write, read_json
from tern.config import ModelConfig
from tern.networks.build import build_trainable


def save_weights(path: Path, model: nn.Module) -> None:
    """A model's weights as safetensors, whole or not at all."""
    with atomic_write(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, temporary)


WEIGHTS = "best.safetensors"
MODEL_CARD = "model.json"


def load_model(folder: Path, device: str = "cpu", text: nn.Module | None = None) -> nn.Module:
    """The trained model of a folder that `tern.train.train` has finished, in eval mode.

    Args:
        text: the text encoder, for a model that was trained with `fine_tune`; its weights are replaced

    Raises:
        FileNotFoundError: training has not finished there
        ValueError: the weights do not fit the model that the card describes, or `text` is missing or too much
    """
    card = Path(folder) / MODEL_CARD
    if not card.is_file():
        raise FileNotFoundError(f"{card} is missing: training has not finished in {folder}; run it (again)")
    facts = read_json(card)
    if facts.get("fine_tuned", False) != (text is not None):
        raise ValueError(
            f"{card} says that fine_tuned is {facts.get('fine_tuned', False)}: then, and only then, give `text`"
        )
    model = build_trainable(ModelConfig(**facts["model"]), facts["region_dim"], facts["token_dim"], text)
    try:
        model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(
            f"{Path(folder) / WEIGHTS} does not fit {card}: {error}; delete the folder, train again"
        ) from error
    return model.to(device).eval()
