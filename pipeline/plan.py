"""A plan: what to run, on what, with which settings. A TOML file, checked strictly; shipped ones go by name.

[dataset]                       # or [demo]: scenes drawn by code
name = "flickr30k"
annotations = "datasets/flickr30k/dataset_flickr30k.json"
images = "datasets/flickr30k/images"
"""

import difflib
import os
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.datasets import DatasetConfig
from data.demo import DemoConfig
from data.formats.flat_rows import RegionFileConfig
from extractors.configs import REGION_CONFIGS, RegionsConfig, TextConfig, TorchvisionConfig
from index import GateConfig, IndexConfig, MaintenanceConfig
from tern.evaluation import EvaluationConfig
from tern.train import TrainConfig

MAX_PLAN_BYTES = 1 << 20


class ReportConfig(BaseModel):
    """What the report shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queries: tuple[str, ...] = ("two dogs are running along the street", "the woman is holding a violin")
    hits_per_query: int = Field(8, ge=1, le=100)  # pictures a query
    num_images: int = Field(6, ge=0, le=100)  # photographs of the test split that are described by the nearest captions


class Plan(BaseModel):
    """One run of it all. One of `demo` and `dataset`; one of `regions`, `regions_file` and `regions_store` at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: Path  # everything that is made lies below this folder
    demo: DemoConfig | None = None
    dataset: DatasetConfig | None = None
    regions: RegionsConfig = TorchvisionConfig()
    regions_file: RegionFileConfig | None = None
    regions_store: Path | None = None  # a region store that is there, used as it is: `tern store import` makes one
    text: TextConfig = TextConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: Path | None = None  # one of the authors' of TERN, used as it is: nothing is trained
    evaluate: EvaluationConfig = EvaluationConfig()
    index: IndexConfig = IndexConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()
    images_per_shard: int = Field(1000, ge=1)  # images; a crash repeats one shard a worker at most
    captions_per_shard: int = Field(10_000, ge=1)  # captions
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)  # processes that extract

    @model_validator(mode="after")
    def _one_source(self) -> "Plan":
        if (self.demo is None) == (self.dataset is None):
            raise ValueError("give exactly one of [demo] and [dataset]")
        sources = ("regions", "regions_file", "regions_store")
        given = [name for name in sources if getattr(self, name) != type(self).model_fields[name].default]
        if len(given) > 1:
            raise ValueError(f"give at most one of {', '.join(given)}: each says where the regions come from")
        if self.checkpoint is not None and self.train != TrainConfig():
            raise ValueError(
                "give [train] or checkpoint: a model is trained, or it is there. `--set train={}` empties the "
                "[train] of a plan"
            )
        return self


def load_plan(name: str, overrides: tuple[str, ...] = ()) -> Plan:
    """Read a plan: a path ending in .toml, or the name of a shipped one (`demo`, `flickr30k`, ...).

    `overrides` are `key.key=value` with the value in TOML (a bare word is a text). Raises FileNotFoundError, or
    ValueError that names every key at fault and, for an unknown one, the nearest that there is.
    """
    path, text = _find(name)
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


def shipped_plans() -> dict[str, Path]:
    """Name -> file of the plans that come with the project."""
    folder = Path(str(resources.files("pipeline") / "plans"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _find(name: str) -> tuple[Path, str]:
    path = Path(name) if name.endswith(".toml") else shipped_plans().get(name)
    if path is None or not path.is_file():
        near = difflib.get_close_matches(name, shipped_plans(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(shipped_plans())}"
        raise FileNotFoundError(f"No plan {name!r}: give a .toml file, or a name; {hint}")
    if path.stat().st_size > MAX_PLAN_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a plan has at most {MAX_PLAN_BYTES:,}.")
    return path, path.read_text(encoding="utf-8")


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
