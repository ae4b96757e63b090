"""`Plan`: the settings of one pipeline, as a TOML file holds them."""

import os

from pydantic import Field, model_validator

from data.config import DatasetConfig, DemoConfig, NameOrPath, NewFolder, PlanPath, RegionFileConfig, SettingsTable
from extractors.config import RegionsConfig, TextConfig, TorchvisionConfig
from index.config import GateConfig, IndexConfig, MaintenanceConfig
from tern.config import EvaluationConfig, TrainConfig


class ReportConfig(SettingsTable):
    """What the report shows."""

    queries: tuple[str, ...] = ("two dogs are running along the street", "the woman is holding a violin")
    """text queries that images are shown for"""
    hits_per_query: int = Field(8, ge=1, le=100)
    """images shown per query"""
    num_images: int = Field(6, ge=0, le=100)
    """images of the test split that the best captions are shown for; 0: none"""


class Plan(SettingsTable):
    """Settings of one pipeline: dataset, extractors, training, index and report.

    Exactly one of `demo` and `dataset` is set, and at most one of `regions`, `regions_file` and `regions_store`.
    """

    workspace: NewFolder
    """folder of all outputs of the plan: a new or an empty one, or that of earlier runs on this dataset; relative paths
    start in the current folder"""
    demo: DemoConfig | None = None
    """the demo dataset, which is drawn by code; None: `dataset` is set"""
    dataset: DatasetConfig | None = None
    """dataset of images and captions on disk; None: `demo` is set"""
    regions: RegionsConfig = TorchvisionConfig()
    """extractor of region features"""
    regions_file: RegionFileConfig | None = None
    """file of region features to use instead of an extractor; None: an extractor or a store"""
    regions_store: PlanPath | None = None
    """folder of an existing region store, such as `tern store import` writes; None: an extractor or a file"""
    text: TextConfig = TextConfig()
    """extractor of token features"""
    train: TrainConfig = TrainConfig()
    """training of the model"""
    checkpoint: PlanPath | None = None
    """published checkpoint of the TERN paper to use as the model, without training; None: the model is trained"""
    model: NameOrPath | None = None
    """model package to use without training: folder of `tern model export`, `owner/name` or `owner/name@revision` of
    the Hugging Face hub, or name of a shipped model; `regions` and `text` come from it; None: the model is trained"""
    evaluate: EvaluationConfig = EvaluationConfig()
    """metrics of the held-out splits"""
    index: IndexConfig = IndexConfig()
    """build of the index"""
    maintenance: MaintenanceConfig = MaintenanceConfig()
    """thresholds that trigger compaction and retraining of the index"""
    gate: GateConfig = GateConfig()
    """what a version of the index must reach to be published"""
    report: ReportConfig = ReportConfig()
    """contents of the report"""
    images_per_shard: int = Field(250, ge=1)
    """images per shard of a region store; a crash repeats at most one shard per worker, and fewer shards than `workers`
    leave cores idle"""
    captions_per_shard: int = Field(10_000, ge=1)
    """captions per shard of a token store"""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    """processes that extract features and embed; the default is the number of cores"""

    @model_validator(mode="after")
    def _check_sources(self) -> "Plan":
        if (self.demo is None) == (self.dataset is None):
            raise ValueError("A plan has exactly one of [demo] and [dataset]. Remove one or add one.")
        sources = ("regions", "regions_file", "regions_store")
        fields = type(self).model_fields
        selected = [name for name in sources if getattr(self, name) != fields[name].default]
        if len(selected) > 1:
            raise ValueError(
                f"A plan has one source of regions, but {' and '.join(selected)} are set. Keep one of them."
            )
        models = [name for name in ("model", "checkpoint") if getattr(self, name) is not None]
        if len(models) > 1:
            raise ValueError("A plan has one model, but model and checkpoint are set. Remove one of the two.")
        if models and self.train != TrainConfig():
            raise ValueError(
                f"A plan with a {models[0]} trains no model, but [train] is set. Remove one of the two; "
                "`--set train={}` empties the [train] of a plan."
            )
        return self

    @property
    def trains_model(self) -> bool:
        """Whether the model is trained; otherwise it comes from a package or a checkpoint."""
        return self.model is None and self.checkpoint is None

    @property
    def dataset_name(self) -> str:
        """Name of the dataset."""
        return self.dataset.name if self.dataset else "demo"
