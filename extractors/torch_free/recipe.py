"""The part of a recipe that the settings of a network and its device determine; used by all extractors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from data.manifest import Recipe


def network_recipe(config: Any, name: str, version: int, excluded: Collection[str] = (), **numerics: Any) -> Recipe:
    """Return the settings of an extractor that determine its numbers.

    Args:
        config: Settings, with `kind`, `weights` and `device`: a path of weights does not determine numbers.
        name: Name of the extractor.
        version: Version of its code.
        excluded: Other settings that do not determine numbers.
        numerics: What else does, such as the dtype and the hash of the weights.
    """
    settings = config.model_dump(exclude={"kind", "weights", "device", *excluded})
    return {"extractor": name, "version": version, **settings, **numerics, **device_recipe(config.device)}


def device_recipe(device: str) -> dict[str, str]:
    """Return the part of a recipe that a device determines: its type, or nothing for a CPU."""
    kind = device.partition(":")[0]
    return {} if kind == "cpu" else {"device": kind}


def is_cpu(device: str) -> bool:
    """Return whether the name of a device is that of the CPU; a name that is not valid is not."""
    return device in ("cpu", "cpu:0")
