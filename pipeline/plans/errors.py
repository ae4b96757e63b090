"""Describe the validation errors of a plan in terms of its keys. Used by `pipeline.plans.load`."""

from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

from data.text import suggest_name
from extractors.config import REGION_CONFIGS
from pipeline.plans.plan import Plan

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def describe_problem(problem: "ErrorDetails") -> str:
    """Describe one validation error: the key, the problem, and a similar name for an unknown one."""
    keys, known = _find_keys(problem["loc"])
    where = ".".join(keys) or "plan"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown setting; {suggest_name(keys[-1], known, 'use one of')}"
    if problem["type"] == "union_tag_invalid":
        tag = problem["ctx"]["tag"]
        kinds = [config.model_fields["kind"].default for config in REGION_CONFIGS]
        return f"{where}.kind: unknown value {tag!r}; {suggest_name(tag, kinds, 'use one of')}"
    if not keys:
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}; the value is {problem['input']!r}"


def _find_keys(location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Find the keys of a plan that lead to a problem.

    Args:
        location: Location of the problem as pydantic reports it. Where a table has several kinds, such as [regions],
            pydantic inserts the kind after the name of the table.

    Returns:
        The keys as the plan contains them, and the settings that the table of the last key may contain.
    """
    keys: list[str] = []
    tables: list[type[BaseModel]] = []
    models: list[type[BaseModel]] = [Plan]
    for part in map(str, location):
        of_kind = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        if len(models) > 1 and of_kind:
            models = of_kind
            continue
        keys.append(part)
        tables = models
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [model for annotation in annotations for model in _list_models(annotation)]
    return keys, list(dict.fromkeys(key for table in tables for key in table.model_fields))


def _list_models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _list_models(part)]
