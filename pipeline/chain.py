"""The stages in order: what is asked for is made, with all that it needs; what is there already is not made again."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from data.files import digest, write_text
from data.formats.flat_rows import RegionFileConfig
from data.records import Dataset
from data.store import Store
from pipeline import stages
from pipeline.importing import find_missing_images
from pipeline.indexing import publish_full_index
from pipeline.plan import Plan
from pipeline.stages import VectorStores
from pipeline.workers import MapFn
from tern.distributed import main_process_first, process_group

STAGE_LOG = "stages.jsonl"
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
        """Records of the data set; the demo's pictures are drawn."""
        if self.plan.checkpoint is not None and self._pinned is None:
            # now, not after hours of extraction
            stages.check_checkpoint(self.plan.checkpoint, self.plan.text, self.plan.workspace)
        return self._timed("data set", lambda: stages.load_plan_dataset(self.plan, self._each("draw scenes")))

    @cached_property
    def regions(self) -> Path:
        """Folder of the region store."""
        plan = self.plan
        if (given := plan.regions_store) is not None:
            return self._timed("region features", lambda: stages.check_region_store(given, self.dataset), self.dataset)
        config = plan.regions_file or plan.regions
        # A file of regions is read whole: once, in this process, rather than in every worker.
        each = self._counted("region features", map if isinstance(config, RegionFileConfig) else None)
        make = lambda: stages.extract_regions(config, self.dataset, plan.workspace, plan.images_per_shard, each)  # noqa: E731
        return self._timed("region features", make, self.dataset)

    @cached_property
    def tokens(self) -> Path:
        """Folder of the token store."""
        plan, each = self.plan, self._counted("token features")
        make = lambda: stages.extract_tokens(plan.text, self.dataset, plan.workspace, plan.captions_per_shard, each)  # noqa: E731
        return self._timed("token features", make, self.dataset)

    @cached_property
    def usable(self) -> Dataset:
        """The data set less what the extractors set aside: what is trained on, evaluated and indexed."""
        return stages.select_valid(self.dataset, self.regions, self.tokens)

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
                        "training", lambda: stages.import_paper_checkpoint(given, *needs, plan.workspace, plan.text)
                    )
                inputs = (plan.train, self.regions, self.tokens, self.usable, plan.workspace)
            return self._timed("training", lambda: stages.train_model(*inputs, self._on_epoch, plan.text))

    @cached_property
    def vectors(self) -> VectorStores:
        """Folders of the two vector stores."""
        inputs = (self.model, self.regions, self.tokens, self.usable, self.plan.workspace)
        return self._timed("embedding", lambda: stages.embed_dataset(*inputs, self._each("embedding"), self.plan.text))

    @cached_property
    def metrics(self) -> Path:
        """File of the metrics of the held-out splits."""
        inputs = (self.vectors, self.usable, self.plan.workspace)
        return self._timed("evaluation", lambda: stages.evaluate_splits(*inputs, config=self.plan.evaluate))

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
        """(name, reason) of everything of the data set that could not be used: records, images, captions."""
        found = [(entry.name, entry.reason) for entry in self.dataset.invalid_records]
        captions = Store(self.tokens).invalid_items
        found += self._without_regions().items()
        return [*found, *((name, reason) for name, reason in captions.items() if name in self.dataset.captions_by_id)]

    def _without_regions(self) -> dict[str, str]:
        store = Store(self.regions)
        if self.plan.regions_store is not None:  # it may hold, and have set aside, much that is not of this data set
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


def read_stage_seconds(workspace: Path) -> dict[tuple[str, str], float]:
    """(stage, output) -> seconds of the longest run that gave that output, by the workspace's journal."""
    found: dict[tuple[str, str], float] = {}
    for entry in _entries(workspace):
        key = (entry["stage"], entry["output"])
        found[key] = max(entry["seconds"], found.get(key, 0.0))
    return found


def seconds_per_item(workspace: Path, stage: str, output: str) -> float | None:
    """What an item of an output took, over all runs that made some, by the workspace's journal; None if none did."""
    runs = [e for e in _entries(workspace) if (e["stage"], e["output"]) == (stage, output) and e.get("items")]
    return sum(run["seconds"] for run in runs) / sum(run["items"] for run in runs) if runs else None


def _entries(workspace: Path) -> Iterator[dict[str, Any]]:
    path = workspace / STAGE_LOG
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when a run was killed, or an empty one
            continue


def _name(made: Any) -> str:
    if isinstance(made, VectorStores):
        return f"{made.images.name}, {made.captions.name}"
    if isinstance(made, Path) and made.parent.name == "versions":
        return made.stem
    return made.name
