"""Index a folder of photographs with a model package, and say what changed since the last time."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from index.versions import read_current
from pipeline.runs.runner import PipelineRunner
from pipeline.stages.extract import find_plan_stores, open_store_or_none
from pipeline.stages.results import Vectors

NUM_SHARDS = 64  # of a large folder, so that the progress bar moves and all workers have work until the end
MIN_SHARD_IMAGES, MAX_SHARD_IMAGES = 32, 1000


@dataclass(frozen=True)
class PhotoChanges:
    """What an update of a folder of photographs found; each photograph is in one of the first five counts."""

    unchanged: int
    """Same path, same content."""
    new: int
    """New content at a path that was not there."""
    changed: int
    """New content at a path that was there."""
    moved: int
    """Known content at a path that was not there; its old path is gone."""
    copied: int
    """Known content at another path; its features are copied."""
    removed: int
    """Paths that are gone, without those that moved."""

    def __str__(self) -> str:
        counts = {name: count for name, count in vars(self).items() if count}
        return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "no photograph"


@dataclass(frozen=True)
class PhotoUpdate:
    """Result of an update."""

    changes: PhotoChanges
    num_extracted: int
    """Number of photographs whose features were computed."""
    vectors: Vectors
    index: Path
    """Manifest of the published version; the earlier one if nothing changed."""


def update_photo_index(runner: PipelineRunner, dataset: Dataset, on_message: Callable[[str], None]) -> PhotoUpdate:
    """Extract what is new in a folder, embed it with the model of the plan, and publish the changes.

    Args:
        runner: Runner of a plan with a model package.
        dataset: The photographs, as the runner has loaded them.
        on_message: Called with a line of text when more than an update of the index is done, with the reason.

    Raises:
        ValueError: No photograph can be read, or the model package does not fit.
        RejectedError: The new version did not pass the gate, for instance since most photographs are gone.
    """
    size = min(max(len(dataset.images) // NUM_SHARDS, MIN_SHARD_IMAGES), MAX_SHARD_IMAGES)
    runner.plan = runner.plan.model_copy(update={"images_per_shard": size})
    before = _read_hashes(runner)
    features = runner.extract(dataset)
    changes = find_changes(before, _read_hashes(runner))
    vectors = runner.embed(features, runner.train(features))
    if read_current(runner.workspace.index) is None:
        index = runner.publish_index(vectors)
    else:
        index = runner.update_index(vectors, allow_full_build=True, on_message=on_message)
    return PhotoUpdate(changes, changes.new + changes.changed, vectors, index)


def _read_hashes(runner: PipelineRunner) -> dict[str, str]:
    """Map the ids of the photographs in the region store, readable or not, to the hashes of their content."""
    store = open_store_or_none(find_plan_stores(runner.plan)[0])
    if store is None:
        return {}
    with store:
        valid = dict(zip(store.ids, store.content_hashes(store.ids), strict=True))
        removed = set(store.manifest.removed_ids)
        return {item.id: item.hash for item in store.manifest.invalid_items if item.id not in removed} | valid


def find_changes(before: Mapping[str, str], after: Mapping[str, str]) -> PhotoChanges:
    """Compare the photographs of two states of a folder.

    Args:
        before: Hash of the content by path, before.
        after: The same, after.
    """
    kinds: Counter[str] = Counter()
    known = set(before.values())
    gone = Counter(content for path, content in before.items() if path not in after)
    for path, content in after.items():
        if before.get(path) == content:
            kinds["unchanged"] += 1
        elif content in known and path not in before and gone[content]:
            gone[content] -= 1
            kinds["moved"] += 1
        elif content in known:
            kinds["copied"] += 1
        else:
            kinds["changed" if path in before else "new"] += 1
            known.add(content)  # a second new photograph with this content is a copy
    return PhotoChanges(
        kinds["unchanged"], kinds["new"], kinds["changed"], kinds["moved"], kinds["copied"], sum(gone.values())
    )
