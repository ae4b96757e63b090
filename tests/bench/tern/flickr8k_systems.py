"""The systems of the bench `flickr8k`, and the ranks of one run of each on `test`, kept in a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.alignment import concatenate_embeddings
from data.io import read_json, write_json
from tern.card import read_model_card
from tern.config import TrainConfig
from tern.evaluation.metrics import compute_ranks, encode_image_ids
from tern.evaluation.rerank import rerank_split
from tern.model.embed import embed_captions, embed_images
from tern.model.folder import load_model
from tern.training.inputs import TrainingInputs
from tern.training.train import fingerprint, train
from tests.bench.common import cpu_of
from tests.bench.tern.baselines import embed_by_ridge, fit_ridge_on_val

RIDGE_VIEWS = ("first", "scored", "max")


@dataclass(frozen=True)
class System:
    """A preset and the settings that differ from it; every change is in the name of the row."""

    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)


SYSTEMS = {
    # A fifth of the preset's epochs, with its step of the rate after 60 % of them.
    "vse-infinity": System("vse-infinity", {"epochs": 25, "all_negatives_epochs": 1}),
    # Their rates, 2e-6 and 1e-3, learn nothing from so few images (decision 015); the epochs are reduced by their cost.
    "paper": System("paper", {"lr": 2e-5, "epochs": 10, "warmup": 0.1}),
    "kaylode": System("kaylode", {"lr": 1e-4, "epochs": 20, "warmup": 0.1}),
    "default": System("default"),
}
NAMES = ("chance", "ridge", *SYSTEMS)


@dataclass(frozen=True)
class Result:
    """Ranks of one run on `test`, from 0, in the order of the images and captions of the dataset."""

    i2t: np.ndarray
    t2i: np.ndarray
    val_rsum: float
    cpu_seconds: float


def measure_system(name: str, seed: int, inputs: TrainingInputs, folder: Path) -> dict[str, Result]:
    """Train a system, or return the result that `folder` holds of an earlier call.

    Args:
        name: `ridge` or a key of `SYSTEMS`.
        seed: Random seed; ridge regression has none.
        inputs: Stores and dataset; its split `test` is evaluated once per settings.
        folder: Folder of all results.

    Returns:
        Results by variant: "" for the scores of the vectors. "reranked" for those after reranking.
    """
    config = TrainConfig(preset=SYSTEMS[name].preset, seed=seed, **SYSTEMS[name].changes) if name != "ridge" else None
    # The digest covers the settings and the training images, so that changed ones are another run.
    key = fingerprint(inputs, config or TrainConfig())
    run = folder / f"{name}-{seed}-{key}"
    if not (results := _read_results(run)):
        results = _measure_run(inputs, config, run) if config else {"": _measure_ridge(inputs)}
        _write_results(run, results)
    return results


def _measure_run(inputs: TrainingInputs, config: TrainConfig, run: Path) -> dict[str, Result]:
    spent, start = run / "cpu-seconds.json", time.process_time()
    earlier: float = read_json(spent) if spent.exists() else 0.0

    def keep_time(_: object = None) -> None:
        write_json(spent, earlier + time.process_time() - start)

    train(inputs, config, run, keep_time)
    regions, tokens, dataset = inputs
    test, model = dataset.select_split("test"), load_model(run)
    image_ids, caption_ids = [image.id for image in test.images], [caption.id for caption in test.captions]
    images = concatenate_embeddings([part for _, part in embed_images(model, regions, image_ids)])
    captions = concatenate_embeddings([part for _, part in embed_captions(model, tokens, caption_ids)])
    owners, card = [caption.image_id for caption in test.captions], read_model_card(run)
    labels = encode_image_ids(images.vectors, image_ids, captions.vectors, owners)
    rest = card.metrics["rsum"], read_json(spent)  # rsum on val is without reranking
    results = {"": Result(*compute_ranks(images.vectors, captions.vectors, *labels), *rest)}
    if images.rows is not None:
        i2t, t2i = rerank_split(images, image_ids, captions, owners)
        weight = card.alignment_weight
        results["reranked"] = Result(i2t.compute_ranks(weight), t2i.compute_ranks(weight), *rest)
    return results


def _measure_ridge(inputs: TrainingInputs) -> Result:
    seconds, fit = cpu_of(lambda: fit_ridge_on_val(inputs.dataset, inputs.regions, inputs.tokens, RIDGE_VIEWS))
    images, names, captions, owners = embed_by_ridge(fit, inputs.dataset, inputs.regions, inputs.tokens, "test")
    labels = encode_image_ids(images, names, captions, owners)
    return Result(*compute_ranks(images, captions, *labels), fit.val_rsum, seconds)


def _write_results(run: Path, results: Mapping[str, Result]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    rows = {
        variant: {"i2t": r.i2t.tolist(), "t2i": r.t2i.tolist(), "val_rsum": r.val_rsum, "cpu_seconds": r.cpu_seconds}
        for variant, r in results.items()
    }
    write_json(run / "result.json", rows)


def _read_results(run: Path) -> dict[str, Result]:
    if not (run / "result.json").exists():
        return {}
    return {
        variant: Result(np.array(row["i2t"]), np.array(row["t2i"]), row["val_rsum"], row["cpu_seconds"])
        for variant, row in read_json(run / "result.json").items()
    }
