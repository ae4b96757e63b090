"""`PipelineRunner` runs the stages of one plan, each by an explicit call, and writes the stage log."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data.config import RegionFileConfig
from data.datasets import Dataset
from data.io import digest
from data.store import Store
from pipeline.origin import Origin
from pipeline.plans import Plan, open_package
from pipeline.runs.invalid_records import list_invalid_records
from pipeline.runs.stage_log import StageEntry, append_entry, read_stage_seconds
from pipeline.stages.dataset import check_trainable, load_plan_dataset, select_valid
from pipeline.stages.embed import embed_dataset, list_invalid_vectors
from pipeline.stages.evaluate import evaluate_splits
from pipeline.stages.extract import check_region_store, extract_regions, extract_tokens, select_splits
from pipeline.stages.extractors import get_recipe
from pipeline.stages.index import IndexSource, publish_full_index, publish_index_update
from pipeline.stages.query_side import ensure_query_side
from pipeline.stages.results import Features, Vectors, VectorStores
from pipeline.stages.train import (
    check_checkpoint,
    check_extractors,
    import_model_package,
    import_paper_checkpoint,
    train_model,
)
from pipeline.workers import HASH_IMAGES, MakeMapFn, MapFn, use_builtin_map
from pipeline.workspace import Workspace
from tern.evaluation import Evaluation, read_evaluation

if TYPE_CHECKING:
    from tern.training import OnEpoch

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class ItemCounts:
    """Items of a stage that a run wrote."""

    extracted: int = 0
    copied: int = 0
    """Images whose features were copied, because the store had their content under another name."""


@dataclass(frozen=True)
class Finished:
    """Results of all stages of a plan."""

    plan: Plan
    vectors: Vectors
    evaluation: Evaluation
    """Metrics of the held-out splits."""
    index: Path
    """Manifest of the published index version."""
    stages: tuple[StageEntry, ...]
    """Stages that the runner ran; see `PipelineRunner.list_finished_stages`."""

    @property
    def features(self) -> Features:
        """Features that the vectors were computed from."""
        return self.vectors.features

    @property
    def model(self) -> Path:
        """Folder of the model that the vectors were computed with."""
        return self.vectors.model

    @property
    def workspace(self) -> Workspace:
        """Workspace of the plan."""
        return Workspace(self.plan.workspace)


class PipelineRunner:
    """Run the stages of a plan, each by an explicit call.

    Each call runs one stage or finds its output finished. A call may take hours. Nothing runs at construction.

    Args:
        plan: The plan.
        make_map_fn: Returns the `map` function for the jobs of a stage, given the name of the stage.
        on_epoch: Called after each training epoch with its progress.
    """

    def __init__(self, plan: Plan, make_map_fn: MakeMapFn = use_builtin_map, on_epoch: "OnEpoch | None" = None) -> None:
        self.plan, self.workspace = plan, Workspace(plan.workspace)
        self._make_map_fn, self._on_epoch = make_map_fn, on_epoch
        self._outputs: dict[str, str] = {}  # stage -> name of its output
        self.item_counts: dict[str, ItemCounts] = {}
        """Items that this runner extracted and copied, by stage: `region features` and `token features`."""

    def load_dataset(self, splits: Sequence[str] = (), *, model_is_given: bool = False) -> Dataset:
        """Load the dataset of the plan. The demo dataset is drawn first.

        Args:
            splits: Splits to extract; all if empty. Items of other splits are included as far as the stores already
                have them, so that extraction does not remove them.
            model_is_given: Whether a trained model is embedded with later. Otherwise the package or the checkpoint of
                the plan, if it has one, is checked now, because extraction may take hours.

        Raises:
            ValueError: A split is unknown, or the model package or the checkpoint does not fit the plan.
            FileNotFoundError: A file of the dataset, the model package or the checkpoint does not exist.
        """
        plan = self.plan
        if plan.checkpoint is not None and not model_is_given:
            check_checkpoint(plan.checkpoint, plan.text, self.workspace)
        if plan.model is not None and not model_is_given:
            package = open_package(plan.model)
            check_extractors(package.extractors, f"the model package {package.name}", plan)
        dataset = self._timed("dataset", lambda: load_plan_dataset(plan, self._make_map_fn))
        return select_splits(dataset, plan, splits) if splits else dataset

    def load_trainable_dataset(self) -> Dataset:
        """Load the dataset, and check before the extraction, which may take hours, that a model can be trained on it.

        Raises:
            ValueError: The plan trains a model, but `train` or `val` has too few images with captions.
        """
        dataset = self.load_dataset()
        return check_trainable(dataset) if self.plan.trains_model else dataset

    def extract(self, dataset: Dataset) -> Features:
        """Extract the region and token features of all images and captions that are new or changed."""
        plan = self.plan
        get_recipe(plan.text)  # raises now if its model is missing: the region features may take hours
        regions = self._timed("region features", lambda: self._extract_regions(dataset))
        map_fn = self._counting_map("token features")
        tokens = self._timed(
            "token features",
            lambda: extract_tokens(plan.text, dataset, self.workspace, plan.captions_per_shard, map_fn),
        )
        records = list_invalid_records(dataset, regions, tokens, is_external_store=plan.regions_store is not None)
        return Features(regions, tokens, select_valid(dataset, regions, tokens), dataset, records)

    def _extract_regions(self, dataset: Dataset) -> Path:
        plan = self.plan
        if plan.regions_store is not None:
            return check_region_store(plan.regions_store, dataset)
        config = plan.regions_file or plan.regions
        # This process reads a region file as a whole, once, instead of each worker process.
        map_fn = self._counting_map("region features", map if isinstance(config, RegionFileConfig) else None)
        hash_map_fn = self._make_map_fn(HASH_IMAGES)
        return extract_regions(config, dataset, self.workspace, plan.images_per_shard, map_fn, hash_map_fn)

    def train(self, features: Features) -> Path:
        """Train the model, or import the model package or the checkpoint of the plan. Returns the folder of the model.

        Under torchrun use `pipeline.runs.train_together`.
        """
        return self._timed("training", lambda: self._make_model(features))

    def _make_model(self, features: Features) -> Path:
        plan, stores = self.plan, (features.regions, features.tokens)
        if plan.model is not None:
            model = import_model_package(open_package(plan.model), *stores, self.workspace, plan.text)
        elif plan.checkpoint is not None:
            model = import_paper_checkpoint(plan.checkpoint, *stores, self.workspace, plan.text)
        else:
            inputs = (plan.train, *stores, features.dataset, self.workspace)
            model = train_model(*inputs, self._on_epoch, plan.text)
        ensure_query_side(model, plan.text)
        return model

    def embed(self, features: Features, model: Path) -> Vectors:
        """Embed all images and captions of the valid dataset that have no vector of this model yet."""
        inputs = (model, features.regions, features.tokens, features.dataset, self.workspace)
        map_fn = self._make_map_fn("embedding")
        stores = self._timed("embedding", lambda: embed_dataset(*inputs, map_fn, self.plan.text))
        stores = replace(stores, rerank=self.plan.index.rerank)
        # Later stages list these records with the others; evaluation counts their queries as missed.
        records = (*features.invalid_records, *list_invalid_vectors(stores, features.dataset))
        return Vectors(**vars(stores), model=model, features=replace(features, invalid_records=records))

    def evaluate(self, vectors: Vectors) -> Evaluation:
        """Compute the metrics of the held-out splits."""
        inputs = (vectors, vectors.features.dataset, self.workspace)
        path = self._timed("evaluation", lambda: evaluate_splits(*inputs, config=self.plan.evaluate))
        return read_evaluation(path)

    def publish_index(self, vectors: Vectors) -> Path:
        """Build an index over all vectors and publish it if it passes the gate. Returns the manifest.

        Raises:
            RejectedError: The new version did not pass the gate. The version that was served before is still served.
        """
        source, plan = self._make_index_source(vectors), self.plan
        return self._timed("index", lambda: publish_full_index(source, plan.index, self.workspace, plan.gate))

    def update_index(
        self,
        vectors: Vectors,
        version: int | None = None,
        allow_full_build: bool = False,
        on_message: Callable[[str], None] = log.info,
    ) -> Path:
        """Publish a version with delta shards for all new, changed and removed items. Returns the manifest.

        Args:
            vectors: Vectors of all items.
            version: Version to start from; the published one if None.
            allow_full_build: Build the index from scratch where a delta is impossible, for instance after a change of
                the model.
            on_message: Called with a line of text when more than a delta is built, with the reason.

        Raises:
            IncompatibleUpdateError: A delta is impossible, and `allow_full_build` is False.
            FileNotFoundError: No index is published, and `allow_full_build` is False.
            RejectedError: The new version did not pass the gate. The version that was served before is still served.
        """
        source, plan = self._make_index_source(vectors), self.plan
        return self._timed(
            "index",
            lambda: publish_index_update(
                source,
                plan.index,
                self.workspace,
                plan.gate,
                maintenance=plan.maintenance,
                version=version,
                allow_full_build=allow_full_build,
                on_message=on_message,
            ),
        )

    def run_all(self) -> Finished:
        """Run all stages in order: dataset, features, model, vectors, evaluation, index."""
        features = self.extract(self.load_trainable_dataset())
        vectors = self.embed(features, self.train(features))
        evaluation = self.evaluate(vectors)
        index = self.publish_index(vectors)
        return Finished(self.plan, vectors, evaluation, index, self.list_finished_stages())

    def list_finished_stages(self) -> tuple[StageEntry, ...]:
        """List the stages that this runner ran, in order.

        The seconds are those of the longest run in the stage log that returned the same output: the run that produced
        it, or most of it.
        """
        seconds = read_stage_seconds(self.workspace)
        return tuple(
            StageEntry(stage=stage, output=output, seconds=seconds.get((stage, output), 0.0))
            for stage, output in self._outputs.items()
        )

    def _make_index_source(self, vectors: Vectors) -> IndexSource:
        features = vectors.features
        # The digest of the recipe names the region store: the folder of an external store may have any name.
        regions = f"regions-{digest(Store(features.regions).recipe)}"
        origin = Origin(model=vectors.model.name, regions=regions, tokens=features.tokens.name)
        return IndexSource(vectors, features.dataset, origin, features.regions)

    def _counting_map(self, stage: str, map_fn: MapFn | None = None) -> MapFn:
        """Return the map function of a stage, extended to count the items of all jobs for the stage log."""
        apply, counts = map_fn or self._make_map_fn(stage), ItemCounts()
        self.item_counts[stage] = counts

        def map_and_count(function: Callable[..., Any], jobs: Iterable[Any]) -> Iterable[Any]:
            jobs = list(jobs)
            counts.copied += sum(job.num_items for job in jobs if job.plan.sources)
            counts.extracted += sum(job.num_items for job in jobs if not job.plan.sources)
            return apply(function, jobs)

        return map_and_count

    def _timed(self, stage: str, call: Callable[[], T]) -> T:
        """Run a stage, and append its duration and the name of its output to the stage log."""
        self.workspace.claim(self.plan.dataset_name)
        start = time.perf_counter()
        output = call()
        seconds, name = round(time.perf_counter() - start, 3), _name(output)
        self._outputs[stage] = name
        counts = self.item_counts.get(stage)
        items, copied = (None, None) if counts is None else (counts.extracted, counts.copied or None)
        append_entry(self.workspace, StageEntry(stage=stage, seconds=seconds, output=name, items=items, copied=copied))
        return output


def _name(output: Any) -> str:
    if isinstance(output, VectorStores):
        return f"{output.images.name}, {output.captions.name}"
    if isinstance(output, Path) and output.parent.name == "versions":
        return output.stem
    return output.name
