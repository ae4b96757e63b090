"""Write the rankings of the held-out splits as files of TREC, for programs such as ir_measures and ranx."""

from pathlib import Path

from data.datasets import Dataset
from data.io import check_output_file
from pipeline.stages.dataset import HELD_OUT, splits_with_captions
from pipeline.stages.evaluate import read_split_vectors
from pipeline.stages.results import VectorStores
from tern.evaluation import DIRECTIONS, RankedSide, iter_rankings, write_qrels, write_run

RESULTS_PER_QUERY = 100


def check_trec_folder(folder: Path, force: bool = False) -> None:
    """Check the files that `write_trec_files` may write; call it before any work is done.

    Raises:
        FileExistsError: One of them exists, and `force` is false.
        ValueError: The path of one is a folder or a device, or a parent of it is a file.
    """
    for split in HELD_OUT:
        for direction in DIRECTIONS:
            for path in _name_files(folder, split, direction):
                check_output_file(path, force)


def write_trec_files(vectors: VectorStores, dataset: Dataset, folder: Path, tag: str) -> list[Path]:
    """Write `SPLIT-DIRECTION.qrels` and `.run` of each held-out split with captions and of both directions.

    Args:
        vectors: Vector stores of the model.
        dataset: Valid dataset.
        folder: Folder of the files; existing ones are overwritten.
        tag: Name of the run.

    Returns:
        The paths of the files.
    """
    paths: list[Path] = []
    for split in splits_with_captions(dataset, HELD_OUT):
        part = dataset.select_split(split)
        inputs = read_split_vectors(vectors, part)
        images = RankedSide(inputs.image_ids, inputs.image_ids, inputs.images)
        captions = RankedSide([caption.id for caption in part.captions], inputs.caption_image_ids, inputs.captions)
        pairs = {
            "t2i": [(caption.id, caption.image_id) for caption in part.captions],
            "i2t": [(caption.image_id, caption.id) for caption in part.captions],
        }
        for direction in DIRECTIONS:
            qrels, run = _name_files(folder, split, direction)
            paths.append(write_qrels(qrels, pairs[direction]))
            paths.append(write_run(run, iter_rankings(images, captions, direction, RESULTS_PER_QUERY), tag))
    return paths


def _name_files(folder: Path, split: str, direction: str) -> tuple[Path, Path]:
    return folder / f"{split}-{direction}.qrels", folder / f"{split}-{direction}.run"
