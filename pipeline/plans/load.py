"""Load a plan from a TOML file, with settings changed on the command line.

```toml
[dataset]                       # or [demo]
name = "flickr30k"
annotations = "datasets/flickr30k/dataset_flickr30k.json"
images = "datasets/flickr30k/images"
```
"""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.io import describe_parse_error
from data.text import LinesError
from pipeline.plan_files import read_plan_text
from pipeline.plans.errors import describe_problem
from pipeline.plans.package import apply_package, find_plan_package
from pipeline.plans.plan import Plan
from pipeline.workspace import Workspace


def load_plan(name: str, overrides: tuple[str, ...] = ()) -> Plan:
    """Read and validate a plan.

    Args:
        name: Path that ends in `.toml`, or name of a shipped plan (`demo`, `flickr30k`, ...).
        overrides: Settings to change, as `key.key=value`. The value is TOML; a bare word is a string.

    Returns:
        The plan, which cannot be changed.

    Raises:
        FileNotFoundError: The plan or its model package does not exist.
        ValueError: The file is not valid TOML, an override is not `KEY=VALUE`, or settings are invalid. The message
            lists every invalid setting, and the most similar name of an unknown one. Or the workspace is at a place
            where outputs do not belong, such as the folder of images. Or the model package of the plan is damaged,
            or the plan contradicts it.
        ConnectionError: The model package is on the Hugging Face hub, which cannot be reached.
    """
    return parse_plan(*read_plan_text(name), overrides)


def parse_plan(path: Path, text: str, overrides: tuple[str, ...] = ()) -> Plan:
    """Validate the text of a plan, which need not be written yet; see `load_plan`.

    Args:
        path: File of the plan, for the messages.
        text: Its content.
        overrides: Settings to change.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of TOML, of a number with too many digits, of too deep nesting
        raise ValueError(f"{path} is not valid TOML: {describe_parse_error(error)}. Correct the file.") from error
    for override in overrides:
        _apply_override(content, override)
    if (package := find_plan_package(content)) is not None:
        content = apply_package(content, package)
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        lines = (f"  {describe_problem(problem)}" for problem in error.errors())
        raise LinesError(
            f"{path} is not a valid plan. Correct these settings in the file or in --set:", *lines
        ) from None
    Workspace(plan.workspace).check_location(plan.dataset.images if plan.dataset else None)
    return plan


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {override!r} is not a setting. Write KEY=VALUE, such as train.seed=1.")
    *parents, last = key.strip().split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ValueError(f"--set {override!r}: {parent!r} is a value of the plan, not a table. Correct the key.")
    try:
        content[last] = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        content[last] = value.strip()
