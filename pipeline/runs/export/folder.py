"""The folder of a model package: written under another name, complete, and then renamed.

A killed export leaves a folder `.NAME.incomplete`, which the next export of the same name removes.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from data.io import add_path_to_errors, fsync_path, is_within, sha256_file, write_json, write_lock, write_text
from extractors.config import TextConfig
from pipeline.plans import Plan
from pipeline.runs.export.content import ExportOptions, PackageContent
from pipeline.runs.export.readme import format_readme
from pipeline.stages.query_side import write_query_side
from tern.card import (
    DETECTOR,
    EXTRACTORS,
    METRICS,
    PACKAGE_CONFIG,
    PACKAGE_FILES,
    README,
    TEXT_ENCODER,
    WEIGHTS,
    ModelPackage,
    PackageConfig,
    PackageFile,
    is_package,
    read_package,
)
from tern.evaluation import write_evaluation
from tern.model import save_package_weights
from tern.query import write_calibration

log = logging.getLogger(__name__)
LOCK = ".writer"


def check_output(output: Path, force: bool, plan: Plan) -> None:
    """Check that a package may be written to a folder; call it before any work is done.

    Args:
        output: The folder.
        force: Whether an existing package may be replaced.
        plan: The plan, whose folder of images gets no package.

    Raises:
        FileExistsError: The folder exists, and `force` is false.
        ValueError: Something else than a package is there, or the folder is in the folder of images.
    """
    _restore(output)
    if any(parent.exists() and not parent.is_dir() for parent in output.parents):
        raise ValueError(f"A part of the path {output} is a file. Pass another folder.")
    if plan.dataset is not None and is_within(output, plan.dataset.images):
        raise ValueError(f"{output} is in the folder of images {plan.dataset.images}. Pass a folder outside of it.")
    if not os.path.lexists(output):
        return
    if not force:
        raise FileExistsError(f"{output} already exists. Pass another folder, or --force to replace a package.")
    if output.is_symlink() or not is_package(output):
        raise ValueError(f"{output} is not a model package, so --force does not replace it. Pass another folder.")
    if foreign := sorted(set(os.listdir(output)) - set(PACKAGE_FILES)):
        raise ValueError(
            f"{output} has other files than those of a model package, such as {foreign[0]!r}, so --force does not "
            "replace it. Pass another folder, or move these files away."
        )


def write_package(output: Path, content: PackageContent, options: ExportOptions) -> ModelPackage:
    """Write a package to a folder that `check_output` has accepted.

    Returns:
        The package, read back.
    """
    output = output.absolute()
    incomplete = output.with_name(f".{output.name}.incomplete")
    incomplete.mkdir(parents=True, exist_ok=True)
    with write_lock(incomplete), add_path_to_errors(incomplete):
        _remove_files(incomplete)
        _write_files(incomplete, output.name, content, options)
        package = read_package(incomplete, output.name)  # raises if anything of it could not be read back
        for name in PACKAGE_FILES:
            if (path := incomplete / name).exists():
                fsync_path(path)
        (incomplete / LOCK).unlink()
        fsync_path(incomplete)
        _swap(incomplete, output)
    return ModelPackage(output, package.name, package.digest, package.config, package.extractors)


def _write_files(folder: Path, name: str, content: PackageContent, options: ExportOptions) -> None:
    """Write all files of a package, `config.json` last."""
    card = content.card
    stored = save_package_weights(folder, content.model, card.fine_tuned, options.half)
    if content.text is not None:
        _write_query_side(folder, stored, content.text, card.fine_tuned)
    write_json(folder / EXTRACTORS, content.extractors.model_dump(mode="json"))
    write_evaluation(folder / METRICS, content.evaluation)
    if content.calibration is not None:
        write_calibration(folder, content.calibration)
    if content.detector is not None:
        shutil.copyfile(content.detector, folder / DETECTOR)
    write_text(folder / README, format_readme(name, content, options))
    files = {
        file: PackageFile(sha256=sha256_file(folder / file), bytes=(folder / file).stat().st_size)
        for file in PACKAGE_FILES
        if (folder / file).exists()
    }
    for file in files:  # safetensors writes files that only their owner may read
        shutil.copymode(folder / README, folder / file)
    config = PackageConfig(
        network=card.network,
        model=card.model,
        region_dim=card.region_dim,
        token_dim=card.token_dim,
        fine_tuned=card.fine_tuned,
        alignment_weight=card.alignment_weight,
        num_parameters=card.num_parameters,
        weights_dtype="float16" if options.half else "float32",
        origin=content.origin,
        files=files,
    )
    write_json(folder / PACKAGE_CONFIG, config.model_dump(mode="json", by_alias=True))


def _write_query_side(folder: Path, model: Any, text: TextConfig, is_fine_tuned: bool) -> None:
    if os.path.lexists(text.model):  # a path of this machine
        log.warning("The package has no query side, because `text.model` is a path: queries need torch.")
        return
    try:
        write_query_side(folder, model, text, (WEIGHTS, TEXT_ENCODER) if is_fine_tuned else (WEIGHTS,))
    except ValueError as error:
        log.warning(f"The package has no query side, so queries need torch: {error}.")


def _swap(incomplete: Path, output: Path) -> None:
    """Rename the complete folder; an old package gets another name first, and is then deleted."""
    replaced = _replaced_path(output)
    if output.exists():
        os.rename(output, replaced)
    os.rename(incomplete, output)
    fsync_path(output.parent)
    if replaced.exists():
        _remove_files(replaced)
        replaced.rmdir()


def _restore(output: Path) -> None:
    """Undo or finish a replacement that was killed between its two renames."""
    replaced = _replaced_path(output)
    if not replaced.is_dir() or not is_package(replaced):
        return
    if output.exists():
        _remove_files(replaced)
        replaced.rmdir()
    else:
        os.rename(replaced, output)


def _replaced_path(output: Path) -> Path:
    return output.absolute().with_name(f".{output.absolute().name}.replaced")


def _remove_files(folder: Path) -> None:
    """Remove the files of a package, and nothing else, from a folder of this module."""
    for name in reversed(PACKAGE_FILES):  # `config.json` last: until then it is known as a package
        (folder / name).unlink(missing_ok=True)
