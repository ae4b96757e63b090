"""Errors of `pipeline`."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel

from extractors.config import REGION_CONFIGS
from pipeline.plans.plan import Plan


def _explain(problem: Any) -> str:
    names, known = _place(problem["loc"])
    where = ".".join(names) or "plan"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {_nearest(names[-1], known)}"
    if problem["type"] == "union_tag_invalid":
        kinds = [config.model_fields["kind"].default for config in REGION_CONFIGS]
        return f"{where}.kind: there is no {problem['ctx']['tag']!r}; {_nearest(problem['ctx']['tag'], kinds)}"
    return f"{where}: {problem['msg']}; it is {problem['input']!r}" if names else f"{where}: {problem['msg']}"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _place(location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The keys that lead to a problem as the plan has them, and the settings of the table that holds the last of them.

    Where a table may be of several kinds, pydantic puts the kind after the table's name.
    """
    names, tables, models = [], [], [Plan]  # the models that what has been walked to may be of
    for part in map(str, location):
        chosen = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        if len(models) > 1 and chosen:
            models = chosen
            continue
        names.append(part)
        tables = models
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [model for annotation in fields for model in _models(annotation)]
    return names, list(dict.fromkeys(key for table in tables for key in table.model_fields))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
