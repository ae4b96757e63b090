"""A plan: what to run, on what, with which settings. A TOML file, checked strictly; shipped ones go by name.

[dataset]                       # or [demo]: scenes drawn by code
name = "flickr30k"
annotations = "datasets/flickr30k/dataset_flickr30k.json"
images = "datasets/flickr30k/images"
"""

import tomllib
from typing import Any

from pydantic import ValidationError

from pipeline.plan_files import read_plan_text
from pipeline.plans.errors import _explain
from pipeline.plans.plan import Plan


def load_plan(name: str, overrides: tuple[str, ...] = ()) -> Plan:
    """Read a plan: a path ending in .toml, or the name of a shipped one (`demo`, `flickr30k`, ...).

    `overrides` are `key.key=value` with the value in TOML (a bare word is a text). Raises FileNotFoundError, or
    ValueError that names every key at fault and, for an unknown one, the nearest that there is.
    """
    path, text = read_plan_text(name)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from error
    for override in overrides:
        _override(content, override)
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise ValueError(f"{path} is not a plan:\n{lines}") from None


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {override!r}: write KEY=VALUE, for instance train.seed=1")
    *parents, last = key.strip().split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ValueError(f"--set {override!r}: {parent!r} is a value in the plan, not a table")
    try:
        content[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        content[last] = value.strip()
