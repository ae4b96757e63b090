"""The folder of a trained model: weights and model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from data.io import atomic_write, remove_stale_temporaries, write_lock
from tern.card import MODEL_CARD, NETWORK_VERSION, ModelCard, read_model_card, write_model_card
from tern.networks.build import build_trainable

WEIGHTS = "best.safetensors"


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the weights of a model as safetensors, with an atomic write."""
    with atomic_write(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, temporary)


def write_model_folder(
    folder: Path, model: nn.Module, card: ModelCard, files: Mapping[str, Path] | None = None
) -> None:
    """Write the folder of a model that was not trained here; a finished folder is left as it is.

    Args:
        folder: The folder; created if it does not exist.
        model: The model.
        card: Its card, which is written last.
        files: Files to copy into the folder, by their names there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with write_lock(folder):
        if not (folder / MODEL_CARD).is_file():  # another process may have written it in the meantime
            remove_stale_temporaries(folder)  # of a process that was killed while it wrote
            save_weights(folder / WEIGHTS, model)
            for name, path in (files or {}).items():
                with atomic_write(folder / name) as temporary:
                    shutil.copyfile(path, temporary)
            write_model_card(folder, card)


def load_model(folder: Path, device: str = "cpu", text: nn.Module | None = None) -> nn.Module:
    """Load a trained model in eval mode.

    Args:
        folder: Folder of a finished training or of an imported checkpoint.
        device: Device of the model.
        text: Text encoder, for a model that was trained with `fine_tune`; its weights are replaced.

    Raises:
        FileNotFoundError: Training has not finished in the folder.
        ValueError: The weights do not fit the model card, or `text` is missing or not needed.
    """
    card, weights = read_model_card(folder), Path(folder) / WEIGHTS
    if card.fine_tuned != (text is not None):
        rule = "Pass `text`, its text encoder." if card.fine_tuned else "Do not pass `text`."
        raise ValueError(f"fine_tuned is {card.fine_tuned} in {Path(folder) / MODEL_CARD}. {rule}")
    model = build_trainable(card.model, card.region_dim, card.token_dim, text)
    try:
        state = load_file(weights)
        if other := sorted(state.keys() ^ model.state_dict().keys()):
            raise ValueError(
                f"{weights} has other weights than network version {NETWORK_VERSION}, the first is {other[0]!r}, so "
                f"another version of this program wrote it. Delete {folder} and run `tern train`; the stores and the "
                "published index stay usable."
            )
        model.load_state_dict(state)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(
            f"{weights} does not fit {MODEL_CARD} in the same folder: {error}. Delete {folder} and train again."
        ) from error
    return model.to(device).eval()
