"""The model package of a plan: finds its folder, and takes the settings of the extractors from it.

Only the records of the package are read, so that a plan loads without torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data.config import expand_name_or_path, expand_path
from data.text import LinesError, suggest_name
from extractors.config import MACHINE_KEYS, RegionsConfig, TextConfig
from pipeline.plans.errors import describe_problem
from tern.card import EXTRACTORS, ModelPackage, PackageExtractor, read_package

CONFIGS: dict[str, TypeAdapter[Any]] = {"regions": TypeAdapter(RegionsConfig), "text": TypeAdapter(TextConfig)}
_SHIPPED = Path(__file__).parents[1] / "models"
_OTHER_REGIONS = ("regions_store", "regions_file")


def shipped_models() -> dict[str, Path]:
    """Map the names of the model packages that come with this package to their folders."""
    return {path.parent.name: path.parent for path in sorted(_SHIPPED.glob("*/config.json"))}


def open_package(model: str) -> ModelPackage:
    """Read the records of the model package that a plan names.

    Args:
        model: Name of a shipped package, path of a folder, or name on the Hugging Face hub: `owner/name` or
            `owner/name@revision`. A shipped name comes first, then a path that exists. A text that starts with `.`,
            `/` or `~` or ends with `/` is a path.

    Raises:
        FileNotFoundError: There is no such package.
        ValueError: The package is damaged, or another version of this program wrote it.
        ConnectionError: It is on the hub, which cannot be reached.
    """
    shipped = shipped_models()
    if model in shipped:
        return read_package(shipped[model], model)
    path = Path(expand_path(model))
    if os.path.lexists(path) or model.startswith((".", "/", "~")) or model.endswith("/"):
        return read_package(path)
    if model.count("/") != 1:
        raise FileNotFoundError(
            f"The model {model!r} does not exist. Pass a folder that `tern model export` wrote, a name `owner/name` of "
            f"the Hugging Face hub, or a shipped model; {suggest_name(model, shipped, 'shipped models are')}."
        )
    from pipeline.plans.hub import open_hub_package  # lazy: the client of the hub is imported when it is needed

    return open_hub_package(model)


def find_plan_package(content: Mapping[str, Any]) -> ModelPackage | None:
    """Read the package that the content of a plan file names; None without one, or if its name is not valid."""
    model = content.get("model")
    try:
        expanded = expand_name_or_path(model)
    except ValueError:  # the validation of the plan reports it
        return None
    return open_package(expanded) if isinstance(expanded, str) and expanded else None


def apply_package(content: Mapping[str, Any], package: ModelPackage) -> dict[str, Any]:
    """Return the content of a plan file with the extractors of its package.

    Args:
        content: Tables and values of the plan. Its settings of a machine and its paths of weights are kept.
        package: The package.

    Raises:
        ValueError: The plan contradicts the package, lacks a path that the package does not have, or the package has
            an extractor that this version does not know.
    """
    has_other_regions = any(content.get(key) is not None for key in _OTHER_REGIONS)
    applied, problems = dict(content), []
    for table, extractor in (("regions", package.extractors.regions), ("text", package.extractors.text)):
        chosen = content.get(table, {})
        if not isinstance(chosen, Mapping) or (table == "regions" and has_other_regions):
            continue  # the validation of the plan reports a value that is not a table
        if extractor.settings is None:
            problems.append(
                f"{table}: the model package {package.name} reads features of {extractor.source}, which this program "
                "does not extract; set `regions_store` to a store of such features"
            )
            continue
        settings = _read_settings(table, extractor, package)
        problems += _find_contradictions(table, chosen, settings, extractor, package.name)
        applied[table] = {**settings, **chosen}
    if problems:
        raise LinesError(
            f"The plan contradicts its model package {package.folder}. Remove these settings from the plan, or choose "
            "another model:",
            *(f"  {problem}" for problem in problems),
        )
    return applied


def read_region_config(package: ModelPackage) -> RegionsConfig | None:
    """Return the config of the region extractor of a package; None if another program or other files are needed.

    Raises:
        ValueError: This version of the program does not know the extractor.
    """
    extractor = package.extractors.regions
    if extractor.settings is None or any(path.file is None for path in extractor.paths.values()):
        return None
    config: RegionsConfig = CONFIGS["regions"].validate_python(_read_settings("regions", extractor, package))
    return config


def _read_settings(table: str, extractor: PackageExtractor, package: ModelPackage) -> dict[str, Any]:
    """Return the settings of an extractor of a package, with the paths of files that are in the package."""
    paths = {key: str(package.folder / path.file) for key, path in extractor.paths.items() if path.file}
    settings = {**(extractor.settings or {}), **paths}
    missing = {key: path.name for key, path in extractor.paths.items() if not path.file}
    try:
        CONFIGS[table].validate_python({**settings, **missing})
    except ValidationError as error:
        problem = error.errors()[0]
        problem["loc"] = (table, *problem["loc"])
        raise ValueError(
            f"{package.folder / EXTRACTORS} has an extractor that this version of the program does not know: "
            f"{describe_problem(problem)}. Use the version that wrote it, or export the model again."
        ) from error
    return settings


def _find_contradictions(
    table: str, chosen: Mapping[str, Any], settings: Mapping[str, Any], extractor: PackageExtractor, name: str
) -> list[str]:
    """List the settings of a plan that differ from those of the package, and the paths that it lacks."""
    problems = [
        f"{table}.{key}: the model package {name} needs {path.name!r} (sha256 of its weights "
        f"{extractor.weights_sha256}), which it does not contain; set {table}.{key} to its path"
        for key, path in extractor.paths.items()
        if path.file is None and key not in chosen
    ]
    for key, value in chosen.items():
        # A path may name the same weights: their hash is part of the recipe, which is compared before extraction.
        if key in MACHINE_KEYS or key in extractor.paths or key not in settings or _names_a_path(value):
            continue
        if value != settings[key]:
            problems.append(f"{table}.{key}: the plan has {value!r}, the model package {name} {settings[key]!r}")
    return problems


def _names_a_path(value: Any) -> bool:
    return isinstance(value, str) and "/" in value and os.path.lexists(os.path.expanduser(value))
