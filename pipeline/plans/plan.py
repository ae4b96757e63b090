"""Plan of `pipeline`."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.config import DatasetConfig, DemoConfig, RegionFileConfig
from extractors.config import RegionsConfig, TextConfig, TorchvisionConfig
from index.config import GateConfig, IndexConfig, MaintenanceConfig
from tern.config import EvaluationConfig, TrainConfig


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
