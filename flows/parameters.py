"""What a run may be told: typed, described, bounded. The server refuses a wrong value before there is a run.

Each type becomes a field of the form in Prefect's pages; the descriptions stand in the flows' docstrings.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from flows.setting_schema import setting_schema
from pipeline.plan_files import shipped_plans
from pipeline.plans import Plan, load_plan

# The names are those of the package that was deployed; a file can only be looked for where the run works.
PLAN = rf"^({'|'.join(map(re.escape, shipped_plans()))}|.+\.toml)$"
PlanName = Annotated[str, Field(pattern=PLAN, max_length=4096)]
Setting = Annotated[str, Field(max_length=10_000, json_schema_extra=setting_schema(Plan))]
Settings = Annotated[Sequence[Setting], Field(max_length=200)]  # no None: then a refusal would not say why
Workers = Annotated[int, Field(ge=1, le=256)] | None
Processes = Annotated[int, Field(ge=1, le=64)] | None
ShardSize = Annotated[int, Field(ge=1, le=1_000_000)] | None
Splits = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=100)] | None
MorePlans = Annotated[list[PlanName], Field(max_length=100)] | None
ModelName = Annotated[str, Field(pattern=r"^tern-[0-9a-f]{12}$")] | None  # a folder of the workspace, and no path
Version = Annotated[int, Field(ge=1)] | None
StartAt = Literal["extract", "train", "index"]
Epochs = Annotated[int, Field(ge=1, le=100_000)] | None
Seed = Annotated[int, Field(ge=0, lt=2**31)] | None
Shards = Annotated[int, Field(ge=1, le=4096)] | None
Recall = Annotated[float, Field(gt=0, le=1)] | None


def load_plan_with(plan: str, overrides: Sequence[str], **typed: Any) -> Plan:
    """The plan with `overrides` and the typed parameters that were given; `__` in a name stands for a dot.

    Raises FileNotFoundError or ValueError, as `pipeline.plan.load_plan` does.
    """
    return load_plan(plan, merge_settings(overrides, **typed))


def merge_settings(overrides: Sequence[str], **typed: Any) -> tuple[str, ...]:
    """`overrides` and the typed parameters that were given, as settings of a plan."""
    given = [f"{key.replace('__', '.')}={value}" for key, value in typed.items() if value is not None]
    return (*overrides, *given)


def dataset_name(plan: str, overrides: Sequence[str] | None = ()) -> str:
    """The name of a plan's dataset, for the names of runs; of a plan that cannot be read, the plan's own name."""
    try:
        found = load_plan(plan, tuple(overrides or ()))
    except (ValueError, OSError):
        return Path(plan).stem  # the run itself says what is wrong
    return found.dataset.name if found.dataset else "demo"
