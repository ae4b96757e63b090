"""The stages: plain functions of a config, inputs and a workspace, that return the folder or file they made.

Each is safe to call again: what is there already is found by its name and not made twice. `each` is the `map` to use
over shards: the built-in one, worker processes with a progress bar, or Prefect tasks.
"""

from pathlib import Path
from typing import Any

from data.datasets import Dataset
from data.io import digest, write_json
from data.store import Store
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from pipeline.stages.results import VectorStores
from pipeline.workspace import Workspace
from tern.config import EvaluationConfig
from tern.evaluation import evaluate_vectors


def evaluate_splits(
    vectors: VectorStores,
    dataset: Dataset,
    workspace: Path,
    splits: tuple[str, ...] = HELD_OUT,
    config: EvaluationConfig | None = None,
) -> Path:
    """Recall, ranks and rsum of each split, both directions, by ids. Returns the file, named by all that goes in."""
    config = config or EvaluationConfig()
    images, captions = Store(vectors.images), Store(vectors.captions)
    shards = [[s.model_dump(mode="json") for s in store.manifest.shards] for store in (images, captions)]
    content = [images.recipe, *shards]
    truth = sorted((c.id, c.image_id) for c in dataset.captions)
    asked = sorted((image.id, image.split) for image in dataset.images if image.id in images)
    extra = [] if config == EvaluationConfig() else [config.model_dump(mode="json"), _stamps(config, splits)]
    folder = Workspace(workspace).evaluation
    path = folder / f"metrics-{digest([content, truth, asked, splits, *extra])}.json"
    if path.exists():
        return path
    found: dict[str, Any] = {}
    texts = {caption.id: caption.text for caption in dataset.captions}
    for name in splits_with_captions(dataset, splits):
        image_ids, caption_ids, owners = held_out_ids(dataset, images, name)
        rows = (s.read("features", ids).astype("float32") for s, ids in ((images, image_ids), (captions, caption_ids)))
        said = [texts[caption] for caption in caption_ids]
        metrics = evaluate_vectors(config, tuple(rows), image_ids, owners, said, name, folder)
        found[name] = {"images": len(image_ids), "captions": len(caption_ids), **metrics}
    return write_json(path, found)


def _stamps(config: EvaluationConfig, splits: tuple[str, ...]) -> list[tuple[int, int]]:
    """Size and time of the files of relevances, so that a new file gives a new evaluation."""
    paths = [Path(config.spice_file.replace("{split}", split)) for split in splits if config.spice_file]
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]
