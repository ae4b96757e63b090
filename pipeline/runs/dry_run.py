"""Preview of a run: which stages have work to do, why, and how long they take. Nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from data.io import digest
from data.store import Store
from index.versions import read_current, read_pinned_version
from pipeline.plans import Plan, open_package
from pipeline.runs.estimate import Estimate, estimate_extraction, estimate_undrawn_demo, find_finished_items
from pipeline.runs.stage_log import longest_seconds
from pipeline.stages.dataset import HELD_OUT, read_plan_dataset, select_valid
from pipeline.stages.embed import find_vector_stores
from pipeline.stages.evaluate import find_metrics_file, find_ranks_file
from pipeline.stages.extract import find_plan_stores
from pipeline.stages.results import VectorStores
from pipeline.stages.train import find_trained_model
from pipeline.workspace import Workspace
from tern.card import MODEL_CARD, read_model_card
from tern.size import complete_settings

EXTRACTION = ("dataset", "region features", "token features")
INDEX_STAGES = (*EXTRACTION, "training", "embedding", "index")
ALL_STAGES = (*EXTRACTION, "training", "embedding", "evaluation", "index")


@dataclass(frozen=True)
class StagePreview:
    """What one stage would do."""

    stage: str
    work: str
    """What it would make; empty if its output is finished."""
    reason: str
    """Why, or what is finished."""
    seconds: float | None = None
    """Seconds by the stage log: an extraction as estimated, other stages as their longest run; None: there was none."""

    def row(self) -> tuple[str, str, str, str]:
        """Return stage, work, reason and time as texts."""
        time = "" if not self.work else "time unknown" if self.seconds is None else f"about {self.seconds:,.0f} s"
        return self.stage, self.work or "nothing", self.reason, time


def preview_stages(plan: Plan, stages: Sequence[str] = ALL_STAGES, model: Path | None = None) -> list[StagePreview]:
    """Preview the stages of a run.

    Args:
        plan: The plan.
        stages: Names of the stages that the run has, in order.
        model: Folder of the model that is embedded with; None: the model of the plan.

    Raises:
        ValueError: The dataset or a store cannot be read, or the workspace is that of another dataset or of somebody
            else, as in the run itself.
        FileNotFoundError: A file of the dataset does not exist.
    """
    previews = _Preview(plan, model).list_all()
    return [preview for preview in previews if preview.stage in stages]


class _Preview:
    """The stages of a plan, each previewed with what is known of those before it."""

    def __init__(self, plan: Plan, model: Path | None):
        self.plan, self.workspace, self.given_model = plan, Workspace(plan.workspace), model
        self.workspace.check_claim(plan.dataset_name)
        self.estimates = estimate_undrawn_demo(plan, None)
        self.dataset: Dataset | None = None
        if not self.estimates:
            self.dataset = read_plan_dataset(plan)
            self.estimates = estimate_extraction(plan, self.dataset)
        self.is_extracted = not any(estimate.has_work for estimate in self.estimates)
        self.regions, self.tokens = find_plan_stores(plan)

    def list_all(self) -> list[StagePreview]:
        """Preview all stages in order."""
        previews = [self._preview_dataset(), *map(self._preview_extraction, self.estimates)]
        model = self._find_model()
        if self.given_model is None:
            previews.append(self._preview_training(model))
        embedding, vectors = self._preview_embedding(model)
        previews += [embedding, self._preview_evaluation(None if embedding.work else vectors)]
        previews.append(self._preview_index(any(preview.work for preview in previews)))
        return previews

    def _preview_dataset(self) -> StagePreview:
        if self.dataset is not None:
            return StagePreview("dataset", "", f"{len(self.dataset.images):,} images are there")
        assert self.plan.demo is not None, "only the demo dataset is drawn"
        work = f"{self.plan.demo.images:,} images"
        return StagePreview("dataset", work, "the demo dataset is not drawn yet", self._longest("dataset"))

    def _preview_extraction(self, estimate: Estimate) -> StagePreview:
        stage = "token features" if estimate.store.startswith("tokens-") else "region features"
        if not estimate.has_work:
            return StagePreview(stage, "", f"all {estimate.num_existing:,} items are in {estimate.store}")
        work = f"{estimate.num_missing:,} items in {estimate.num_shards:,} shards"
        reason = "new or changed items" if estimate.num_existing else f"{estimate.store} has no items yet"
        reason += f"; {estimate.num_copied:,} more were moved or copied" if estimate.num_copied else ""
        return StagePreview(stage, work, reason, estimate.seconds)

    def _find_model(self) -> Path | None:
        """Return the folder of the model, which need not exist; None if features decide it that are missing."""
        if self.given_model is not None or not self.plan.trains_model:
            return self.given_model or self._find_imported()
        if self.dataset is None or not self.is_extracted:
            return None
        valid = select_valid(self.dataset, self.regions, self.tokens)
        return find_trained_model(self.plan.train, self.regions, self.tokens, valid, self.workspace)

    def _find_imported(self) -> Path | None:
        """Return the folder of the model of the package, which need not exist, or of the checkpoint."""
        if self.plan.model is not None:
            package = open_package(self.plan.model)
            recipes = self._find_recipe(self.regions), self._find_recipe(self.tokens)
            return self.workspace.models / package.name_model(*recipes)
        folders = [self.workspace.models / name for name in self.workspace.list_models()]
        checkpoint = self.plan.checkpoint
        named = (folder for folder in folders if checkpoint and read_model_card(folder).checkpoint == checkpoint.name)
        return next(named, None)

    def _find_recipe(self, folder: Path) -> str:
        """Return the digest of the recipe of a store. Only an external one has another name, and it exists."""
        return digest(Store(folder).recipe) if folder == self.plan.regions_store else folder.name.partition("-")[2]

    def _preview_training(self, model: Path | None) -> StagePreview:
        seconds = self._longest("training")
        if model is not None and (model / MODEL_CARD).is_file():
            return StagePreview("training", "", f"{model.name} is finished")
        if not self.plan.trains_model:
            source = self.plan.model or self.plan.checkpoint
            return StagePreview("training", "a model", f"{source} is not imported yet", seconds)
        if model is None or self.dataset is None:
            return StagePreview("training", "a model, if it is new", "features of its dataset are missing", seconds)
        epochs = f"a model of {complete_settings(self.plan.train, self.dataset).epochs:,} epochs"
        reason = "a training was interrupted" if model.is_dir() else "new settings or a new training set"
        return StagePreview("training", epochs, reason, seconds)

    def _preview_embedding(self, model: Path | None) -> tuple[StagePreview, VectorStores | None]:
        """Return the preview, and the stores unless one of them does not exist."""
        seconds = self._longest("embedding")
        if model is None or not self.is_extracted or not (model / MODEL_CARD).is_file():
            return StagePreview(
                "embedding", "vectors of all new items", "an earlier stage has work to do", seconds
            ), None
        stores = find_vector_stores(model, self.workspace, self.plan.index.rerank)
        missing = {
            "image": self._count_missing("image", self.regions, stores.images),
            "caption": self._count_missing("caption", self.tokens, stores.captions),
        }
        if not any(missing.values()):
            return StagePreview("embedding", "", f"all vectors of {model.name} are there"), stores
        work = " and ".join(f"{count:,} {modality}s" for modality, count in missing.items())
        return StagePreview("embedding", f"vectors of {work}", f"{model.name} has none of them yet", seconds), None

    def _count_missing(self, modality: str, features: Path, folder: Path) -> int:
        """Count the items of the valid dataset whose vector is missing or of another content."""
        assert self.dataset is not None, "the dataset is extracted"
        valid, source = select_valid(self.dataset, self.regions, self.tokens), Store(features)
        ids = [item.id for item in (valid.images if modality == "image" else valid.captions)]
        hashes = dict(zip(ids, source.content_hashes(ids), strict=True))
        return len(ids) - len(find_finished_items(folder, hashes))

    def _preview_evaluation(self, vectors: VectorStores | None) -> StagePreview:
        if vectors is None or self.dataset is None:
            reason = "an earlier stage has work to do"
        else:
            valid = select_valid(self.dataset, self.regions, self.tokens)
            metrics = find_metrics_file(vectors, valid, self.workspace, HELD_OUT, self.plan.evaluate)
            if metrics.is_file() and find_ranks_file(metrics).is_file():
                return StagePreview("evaluation", "", f"{metrics.name} is finished")
            reason = "new vectors, splits or settings"
        return StagePreview("evaluation", "metrics", reason, self._longest("evaluation"))

    def _preview_index(self, has_work: bool) -> StagePreview:
        pointer, pinned = read_current(self.workspace.index), read_pinned_version(self.workspace.index)
        if pinned is not None:
            reason = f"it would be published in place of version {pinned}, which a rollback pinned"
        elif pointer is None:
            reason = "nothing is published yet"
        elif has_work:
            reason = f"version {pointer.version} would be replaced if the new one passes the gate"
        else:
            reason = f"only if it differs from version {pointer.version}"
        return StagePreview("index", "a version", reason, self._longest("index"))

    def _longest(self, stage: str) -> float | None:
        return longest_seconds(self.workspace, stage)
