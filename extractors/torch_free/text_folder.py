"""Find the folder of a text model without transformers."""

from __future__ import annotations

from pathlib import Path

from extractors.packaged import MINILM, locate_package_file


def find_text_folder(model: str) -> Path:
    """Return the folder of a text model: that of an installed package, a path, or a snapshot of the Hugging Face hub.

    Nothing is downloaded, and the bytes of the files are not checked.

    Args:
        model: Name or folder, as `text.model` of a plan.

    Raises:
        FileNotFoundError: The model is not on this machine.
    """
    if model == MINILM.name:
        return locate_package_file(MINILM).parent
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache  # lazy: most models are none of the hub

    try:
        config = try_to_load_from_cache(model, "config.json")
    except ValueError:  # not a name of the hub
        config = None
    if not isinstance(config, str):
        raise FileNotFoundError(
            f"The text model {model!r} is not on this machine. Restore its folder, or load it with `tern extract`."
        )
    return Path(config).parent
