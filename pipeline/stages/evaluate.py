"""The stages: plain functions of a config, inputs and a workspace, that return the folder or file they made.

Each is safe to call again: what is there already is found by its name and not made twice. `each` is the `map` to use
over shards: the built-in one, worker processes with a progress bar, or Prefect tasks.
"""

from pathlib import Path

from data.datasets import Dataset
from data.io import digest
from data.store import Store
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from pipeline.stages.results import VectorStores
from pipeline.workspace import Workspace
from tern.config import EvaluationConfig
from tern.evaluation import Evaluation, SplitEvaluation, SplitVectors, evaluate_vectors, write_evaluation


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
    evaluations: dict[str, SplitEvaluation] = {}
    texts = {caption.id: caption.text for caption in dataset.captions}
    for name in splits_with_captions(dataset, splits):
        image_ids, caption_ids, caption_image_ids = held_out_ids(dataset, images, name)
        split = SplitVectors(
            images.read("features", image_ids).astype("float32"),
            captions.read("features", caption_ids).astype("float32"),
            image_ids,
            caption_image_ids,
            [texts[caption] for caption in caption_ids],
        )
        evaluations[name] = evaluate_vectors(config, split, name, folder)
    return write_evaluation(path, Evaluation(splits=evaluations))


def _stamps(config: EvaluationConfig, splits: tuple[str, ...]) -> list[tuple[int, int]]:
    """Size and time of the files of relevances, so that a new file gives a new evaluation."""
    paths = [Path(config.spice_file.replace("{split}", split)) for split in splits if config.spice_file]
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]
