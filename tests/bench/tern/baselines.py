"""Chance, ridge regression and presets, on images of Flickr8k and on the demo dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data.datasets.records import Dataset
from data.store.store import Store
from pipeline.plans.load import load_plan
from pipeline.stages.dataset import held_out_ids
from pipeline.stages.results import Features
from tern.batching.pooled import pool_features
from tern.card import read_model_card
from tern.config import TrainConfig
from tern.evaluation.baselines import chance_recall, fit_ridge
from tern.evaluation.metrics import retrieval_metrics
from tern.model.folder import load_model
from tern.training.inputs import TrainingInputs
from tern.training.train import train
from tern.training.validation import evaluate_split
from tests.bench.common import cpu_of
from tests.helpers.small_plan import extract_features

SHARED = Path(__file__).parents[4] / "shared" / "flickr8k"
PENALTIES = [10.0**power for power in range(-3, 4)]
COLUMNS = ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10", "rsum")
PRESETS = {  # preset -> seeds, and settings that differ from it; large networks have one seed, as they take long
    "small-data": (range(5), {}),
    "default": (range(5), {}),
    "kaylode": (
        range(1),
        {"lr": 1e-4, "epochs": 30, "warmup": 0.1},
    ),  # with its own 1e-3 and no warm-up, the result is chance
    "paper": (range(1), {"lr": 2e-5, "epochs": 30, "warmup": 24}),
}


def flickr8k(folder: Path) -> None:
    """Measure recalls on `test`; the penalty is chosen on `val`."""
    if features := _extract_flickr8k(folder):
        measure_baselines(features)


def measure_baselines(features: Features) -> None:
    """Measure chance and ridge regression on features of a dataset whose test images have equal numbers of captions."""
    regions, tokens, dataset = Store(features.regions), Store(features.tokens), features.dataset
    test = dataset.select_split("test")
    title = f"{dataset.name}: {len(test.images)} images, {len(test.captions)} captions"
    table = Table("on test", *COLUMNS, title=title, title_justify="left")
    _add(table, "chance", chance_recall(len(test.images), len(test.captions) // len(test.images)))
    for label, means in (("", ("mean", "max")), (", regions weighed by their scores", ("scored", "max"))):
        views = ("first", *means)
        images, captions, owners = _split(dataset, regions, tokens, views, "train")
        # Centered, and regions scaled: otherwise a few captions are close to every image.
        frame = images.mean(axis=0), images.std(axis=0) + 1e-6, captions.mean(axis=0)
        framed = _normalize(frame, images, captions)
        fits = [(penalty, fit_ridge(*framed, owners, penalty)) for penalty in PENALTIES]
        val = [_score(w, frame, *_split(dataset, regions, tokens, views, "val"))["rsum"] for _, w in fits]
        penalty, weights = fits[int(np.argmax(val))]
        test_metrics = _score(weights, frame, *_split(dataset, regions, tokens, views))
        _add(table, f"ridge{label}, penalty {penalty:g}, val {max(val):.1f}", test_metrics)
    Console(width=140).print(table)


def presets(folder: Path) -> None:
    """Train and measure each preset on Flickr8k."""
    if features := _extract_flickr8k(folder):
        train_presets(features, PRESETS, folder)


def demo(folder: Path) -> None:
    """Measure the baselines and the default preset on the demo dataset."""
    features = extract_features(load_plan("demo", (f'workspace="{folder}"',)))
    measure_baselines(features)
    train_presets(features, {"default": (range(3), {})}, folder)


def train_presets(features: Features, presets: dict[str, tuple[range, dict[str, Any]]], folder: Path) -> None:
    """Train presets on the same features; the epoch is chosen on `val`. Print mean and deviation over seeds."""
    regions, tokens, dataset = Store(features.regions), Store(features.tokens), features.dataset
    test = dataset.select_split("test")
    console, title = Console(width=140), f"{dataset.name}: presets"
    table = Table("on test", *COLUMNS, "rsum on val", "CPU s per run", title=title, title_justify="left")
    for preset, (seeds, changes) in presets.items():
        metrics_by_seed, val, spent = [], [], []
        for seed in seeds:
            config = TrainConfig(preset=preset, seed=seed, **changes)
            run, spent_on_it = folder / f"{preset}-{seed}", folder / f"{preset}-{seed}.cpu"
            seconds, _ = cpu_of(lambda c=config, f=run: train(TrainingInputs(regions, tokens, dataset), c, f))
            if not spent_on_it.exists():  # finished before; the time of an interrupted run would be too short
                spent_on_it.write_text(str(seconds))
            metrics_by_seed.append(evaluate_split(load_model(run), regions, tokens, test).flat())
            val.append(read_model_card(run).metrics["rsum"])
            spent.append(float(spent_on_it.read_text()))
            console.print(
                f"{preset}, seed {seed}: rsum {val[-1]:.1f} on val, {metrics_by_seed[-1]['rsum']:.1f} on test",
                style="dim",
            )
        cells = [_spread([metrics[key] for metrics in metrics_by_seed]) for key in COLUMNS]
        name = preset + (f" ({', '.join(f'{k} {v}' for k, v in changes.items())})" if changes else "")
        table.add_row(f"{name}, {len(metrics_by_seed)} seeds", *cells, _spread(val), f"{np.mean(spent):.0f}")
    console.print(table)


def _extract_flickr8k(folder: Path) -> Features | None:
    """Extract the features of the plan `flickr8k` into `folder`; None if the images are not available."""
    if not SHARED.is_dir():
        Console().print(f"flickr8k: left out, {SHARED} does not exist")
        return None
    settings = {"workspace": folder, "dataset.annotations": SHARED / "dataset_flickr8k.json"}
    settings |= {"dataset.images": SHARED / "images", "regions_file.path": SHARED / "regions.npz"}
    return extract_features(load_plan("flickr8k", tuple(f'{key}="{value}"' for key, value in settings.items())))


def _add(table: Table, name: str, metrics: dict[str, float]) -> None:
    table.add_row(name, *(f"{metrics[key]:.1f}" for key in COLUMNS))


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _split(
    dataset: Dataset, regions: Store, tokens: Store, views: Sequence[str], split: str = "test"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pooled regions (n, 3 d), pooled captions of unit length (m, t), and image numbers of the captions (m,)."""
    image_ids, caption_ids, names = held_out_ids(dataset, regions, tokens, split)
    number_of = {name: number for number, name in enumerate(image_ids)}
    captions = pool_features(tokens, caption_ids)
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    images = np.hstack([pool_features(regions, image_ids, how) for how in views])
    return images, captions, np.array([number_of[name] for name in names])


def _normalize(
    frame: tuple[np.ndarray, ...], images: np.ndarray, captions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normalize images (n, d) and captions (m, t) for ridge regression by statistics of the training split."""
    mean, std, caption_mean = frame
    centered = captions - caption_mean
    return (images - mean) / std, centered / np.linalg.norm(centered, axis=1, keepdims=True)


def _score(
    weights: np.ndarray, frame: tuple[np.ndarray, ...], images: np.ndarray, captions: np.ndarray, owners: np.ndarray
) -> dict[str, float]:
    images, captions = _normalize(frame, images, captions)
    predicted = images @ weights[:-1] + weights[-1]
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    names = [str(number) for number in range(len(images))]
    return retrieval_metrics(predicted, names, captions, [names[number] for number in owners]).flat()
