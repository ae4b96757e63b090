"""The stages in order: what is asked for is made, with all that it needs; what is there already is not made again."""

import json
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from data.config import RegionFileConfig
from data.datasets import Dataset
from data.exchange import find_missing_images
from data.io import digest, write_text
from data.store import Store
from pipeline.plans.plan import Plan
from pipeline.runs.stage_log import STAGE_LOG, read_stage_seconds
from pipeline.stages.dataset import load_plan_dataset, select_valid
from pipeline.stages.embed import embed_dataset
from pipeline.stages.evaluate import evaluate_splits
from pipeline.stages.extract import check_region_store, extract_regions, extract_tokens
from pipeline.stages.index import publish_full_index
from pipeline.stages.results import MapFn, VectorStores
from pipeline.stages.train import check_checkpoint, import_paper_checkpoint, train_model
from tern.parallel import main_process_first, process_group

T = TypeVar("T")


def _plain(label: str) -> MapFn:
    return map


class PipelineRunner:
    """A plan being carried out: each property runs its stage, once, after those it depends on.

    `each(label)` gives the `map` for a stage's shards; `on_epoch` sees the history of the training grow. A `pinned`
    model is used as it is, whatever the plan or the training set have become: a nightly re-index does not train.
    `indexed` is the last stage: `build_index`, or `update_index` with what it takes besides.
    """

    def __init__(
        self,
        plan: Plan,
        make_map_fn: Callable[[str], MapFn] = _plain,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
        model_folder: Path | None = None,
        index_stage: Callable[..., Path] = publish_full_index,
    ):
        self.plan, self._each, self._on_epoch, self._pinned = plan, make_map_fn, on_epoch, model_folder
        self._indexed = index_stage
        self._made: dict[str, str] = {}
        self._items: dict[str, int] = {}  # of a stage's shards in this run

    @cached_property
    def dataset(self) -> Dataset:
        """Records of the dataset; the demo's pictures are drawn."""
        if self.plan.checkpoint is not None and self._pinned is None:
            # now, not after hours of extraction
            check_checkpoint(self.plan.checkpoint, self.plan.text, self.plan.workspace)
        return self._timed("dataset", lambda: load_plan_dataset(self.plan, self._each("draw scenes")))

    @cached_property
    def regions(self) -> Path:
        """Folder of the region store."""
        plan = self.plan
        if (given := plan.regions_store) is not None:
            return self._timed("region features", lambda: check_region_store(given, self.dataset), self.dataset)
        config = plan.regions_file or plan.regions
        # A file of regions is read whole: once, in this process, rather than in every worker.
        each = self._counted("region features", map if isinstance(config, RegionFileConfig) else None)
        make = lambda: extract_regions(config, self.dataset, plan.workspace, plan.images_per_shard, each)  # noqa: E731
        return self._timed("region features", make, self.dataset)

    @cached_property
    def tokens(self) -> Path:
        """Folder of the token store."""
        plan, each = self.plan, self._counted("token features")
        make = lambda: extract_tokens(plan.text, self.dataset, plan.workspace, plan.captions_per_shard, each)  # noqa: E731
        return self._timed("token features", make, self.dataset)

    @cached_property
    def usable(self) -> Dataset:
        """The dataset less what the extractors set aside: what is trained on, evaluated and indexed."""
        return select_valid(self.dataset, self.regions, self.tokens)

    @cached_property
    def model(self) -> Path:
        """Folder of the model: trained, or that of the plan's checkpoint."""
        plan = self.plan
        if self._pinned is not None:
            return self._pinned
        with process_group():
            with main_process_first():  # it makes the stores, and the others find them made
                if (given := plan.checkpoint) is not None:
                    needs = self.regions, self.tokens
                    return self._timed(
                        "training", lambda: import_paper_checkpoint(given, *needs, plan.workspace, plan.text)
                    )
                inputs = (plan.train, self.regions, self.tokens, self.usable, plan.workspace)
            return self._timed("training", lambda: train_model(*inputs, self._on_epoch, plan.text))

    @cached_property
    def vectors(self) -> VectorStores:
        """Folders of the two vector stores."""
        inputs = (self.model, self.regions, self.tokens, self.usable, self.plan.workspace)
        return self._timed("embedding", lambda: embed_dataset(*inputs, self._each("embedding"), self.plan.text))

    @cached_property
    def metrics(self) -> Path:
        """File of the metrics of the held-out splits."""
        inputs = (self.vectors, self.usable, self.plan.workspace)
        return self._timed("evaluation", lambda: evaluate_splits(*inputs, config=self.plan.evaluate))

    @cached_property
    def index(self) -> Path:
        """Manifest of the index version that is published."""
        # By recipe: a store that was given may lie in a folder of any name.
        regions = f"regions-{digest(Store(self.regions).recipe)}"
        provenance = {"model": self.model.name, "regions": regions, "tokens": self.tokens.name}
        inputs = (self.plan.index, self.vectors, self.usable, self.plan.workspace, provenance, self.regions)
        return self._timed("index", lambda: self._indexed(*inputs, self.plan.gate))

    def _counted(self, stage: str, each: MapFn | None = None) -> MapFn:
        """The `map` of a stage's shards, which notes how many items they hold."""
        each = each or self._each(stage)

        def counting(function: Callable[..., Any], jobs: Iterable[Any]) -> Iterable[Any]:
            jobs = list(jobs)
            self._items[stage] = sum(job.num_items for job in jobs)
            return each(function, jobs)

        return counting

    def _timed(self, stage: str, make: Callable[[], T], *needs: Any) -> T:
        """Run a stage; its inputs are made before the clock starts. A line in the journal says how long it took.

        With it stands how many items were extracted, in a stage that does that.
        """
        began = time.perf_counter()
        made = make()
        self._made[stage] = _name(made)
        entry = {"stage": stage, "seconds": round(time.perf_counter() - began, 3), "output": _name(made)}
        entry |= {"items": self._items[stage]} if stage in self._items else {}
        self.plan.workspace.mkdir(parents=True, exist_ok=True)
        with open(self.plan.workspace / STAGE_LOG, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry) + "\n")  # the line before may be half of one, of a run that was killed
        return made

    def list_finished_stages(self) -> list[tuple[str, str, float]]:
        """(stage, output, seconds) of the stages so far; the seconds are those of the longest run that gave the output.

        That is the run that made it, or made most of it, and not those that found it made.
        """
        took = read_stage_seconds(self.plan.workspace)
        return [(stage, output, took.get((stage, output), 0.0)) for stage, output in self._made.items()]

    def list_invalid_records(self) -> list[tuple[str, str]]:
        """(name, reason) of everything of the dataset that could not be used: records, images, captions."""
        found = [(entry.name, entry.reason) for entry in self.dataset.invalid_records]
        captions = Store(self.tokens).invalid_items
        found += self._without_regions().items()
        return [*found, *((name, reason) for name, reason in captions.items() if name in self.dataset.captions_by_id)]

    def _without_regions(self) -> dict[str, str]:
        store = Store(self.regions)
        if self.plan.regions_store is not None:  # it may hold, and have set aside, much that is not of this dataset
            return find_missing_images(store, [image.id for image in self.dataset.images])
        return {name: reason for name, reason in store.invalid_items.items() if name in self.dataset.images_by_id}

    def write_invalid_records(self) -> Path:
        """Write `workspace/invalid_records.jsonl`: what was set aside, a line of JSON (name, reason) each."""
        lines = [json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in self.list_invalid_records()]
        return write_text(self.plan.workspace / "invalid_records.jsonl", "".join(lines))

    def count_truncated_captions(self) -> int:
        """How many captions were longer than `text.max_tokens` and are stored without their end."""
        store = Store(self.tokens)
        ids = [name for name in self.dataset.captions_by_id if name in store]
        return int((store.read("full_length", ids) > store.lengths(ids)).sum())


def _name(made: Any) -> str:
    if isinstance(made, VectorStores):
        return f"{made.images.name}, {made.captions.name}"
    if isinstance(made, Path) and made.parent.name == "versions":
        return made.stem
    return made.name
