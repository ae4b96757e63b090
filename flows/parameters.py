"""Types of the parameters of the flows. The server rejects an invalid value before it creates a run.

Each type becomes a field of the form in Prefect's pages; the docstrings of the flows describe the fields.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from data.text import printable
from flows.setting_schema import setting_schema
from pipeline.plan_files import shipped_plans
from pipeline.plans import Plan, load_plan

# Names of the plans of the deployed package. Whether a plan file exists is known only where the run works.
PLAN = rf"^({'|'.join(map(re.escape, shipped_plans()))}|.+\.toml)$"
PlanName = Annotated[str, Field(pattern=PLAN, max_length=4096)]
Setting = Annotated[str, Field(max_length=10_000, json_schema_extra=setting_schema(Plan))]
Settings = Annotated[
    Sequence[Setting], Field(max_length=200)
]  # without None: with it, the server would not give the reason of a rejection
Workers = Annotated[int, Field(ge=1, le=256)] | None
Processes = Annotated[int, Field(ge=1, le=64)] | None
ShardSize = Annotated[int, Field(ge=1, le=1_000_000)] | None
Splits = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=100)] | None
MorePlans = Annotated[list[PlanName], Field(max_length=100)] | None
ModelName = Annotated[str, Field(pattern=r"^tern-[0-9a-f]{12}$")] | None  # the name of a folder, not a path
Version = Annotated[int, Field(ge=1)] | None
StartAt = Literal["extract", "train", "index"]
Epochs = Annotated[int, Field(ge=1, le=100_000)] | None
Seed = Annotated[int, Field(ge=0, lt=2**31)] | None
Shards = Annotated[int, Field(ge=1, le=4096)] | None
Recall = Annotated[float, Field(gt=0, le=1)] | None


def load_plan_with(plan: str, overrides: Sequence[str], **typed: Any) -> Plan:
    """Load a plan with overrides and typed parameters; `__` in the name of a parameter stands for a dot.

    Raises:
        FileNotFoundError: As `pipeline.plans.load_plan`.
        ValueError: As `pipeline.plans.load_plan`.
    """
    return load_plan(plan, merge_settings(overrides, **typed))


def merge_settings(overrides: Sequence[str], **typed: Any) -> tuple[str, ...]:
    """Merge overrides and the typed parameters that are not None, as settings KEY=VALUE of a plan."""
    settings = [f"{key.replace('__', '.')}={value}" for key, value in typed.items() if value is not None]
    return (*overrides, *settings)


def dataset_name(plan: str, overrides: Sequence[str] | None = ()) -> str:
    """Return the name of the dataset of a plan, for the names of runs.

    It is the name of the plan if the plan cannot be read.
    """
    try:
        loaded = load_plan(plan, tuple(overrides or ()))
    except (ValueError, OSError):
        return printable(Path(plan).stem)  # the run itself reports the error
    return get_dataset_name(loaded)


def get_dataset_name(plan: Plan) -> str:
    """Return the name of the dataset of a plan as visible characters, for names and descriptions."""
    return printable(plan.dataset.name) if plan.dataset else "demo"
