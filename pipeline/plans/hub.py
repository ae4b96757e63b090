"""Model packages of the Hugging Face hub: found in its cache, or downloaded. The client is imported only for them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from data.io import check_limit
from tern.card import PACKAGE_FILES, ModelPackage, read_package

MAX_DOWNLOAD_BYTES = 4 << 30  # of all files of a package
TIMEOUT_SECONDS = 5.0  # of the first answer of the hub
USE_A_FOLDER = "Connect this machine to the network once, or copy the package to it and set `model` to its folder."


def open_hub_package(model: str) -> ModelPackage:
    """Read the records of a package of the hub.

    A package in the cache is used without a request, so that a plan without a revision does not change by itself.

    Args:
        model: `owner/name` or `owner/name@revision`.

    Raises:
        FileNotFoundError: The hub has no such model, or it is not a package.
        ConnectionError: It is not in the cache, and the hub cannot be reached.
        ValueError: The name is not valid, or the package is damaged or too large.
    """
    repository, _, revision = model.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(PACKAGE_FILES), local_files_only=True
        )
        return _read_snapshot(Path(folder), model)
    except HFValidationError as error:
        raise ValueError(f"{model!r} is not a name of the Hugging Face hub ({error}). Write owner/name.") from error
    except (LocalEntryNotFoundError, FileNotFoundError):  # not in the cache, or only a part of it
        return _read_snapshot(_download(repository, revision or None, model), model)


def _download(repository: str, revision: str | None, model: str) -> Path:
    """Download the files of a package, and no others of its repository, into the cache of the hub."""
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(
            f"The model package {model} is not on this machine, and HF_HUB_OFFLINE forbids to ask the Hugging Face "
            f"hub. {USE_A_FOLDER}"
        )
    try:
        found = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        files = [file for file in found.siblings or [] if file.rfilename in PACKAGE_FILES]
        check_limit(f"The model package {model}", sum(file.size or 0 for file in files), MAX_DOWNLOAD_BYTES)
        return Path(snapshot_download(repository, revision=found.sha or revision, allow_patterns=list(PACKAGE_FILES)))
    except HfHubHTTPError as error:
        raise FileNotFoundError(
            f"The Hugging Face hub has no model package {model} that you may read ({str(error).splitlines()[0]}). "
            "Correct the name, or set `model` to a folder."
        ) from error
    except ValueError:
        raise
    except Exception as error:  # whatever the HTTP client of the installed release raises
        raise ConnectionError(
            f"The model package {model} is not on this machine, and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}). {USE_A_FOLDER}"
        ) from error


def _read_snapshot(folder: Path, model: str) -> ModelPackage:
    """Read a package in the cache, whose files are links to the blobs of its repository."""
    return read_package(folder, model, link_root=folder.parents[1])
