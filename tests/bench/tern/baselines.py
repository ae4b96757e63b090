"""Chance and ridge regression on any features; with a preset, on the demo dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from tern.batching.pooled import Pooling, pool_features
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

PENALTIES = [10.0**power for power in range(-3, 4)]
COLUMNS = ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10", "rsum")


def measure_baselines(features: Features) -> None:
    """Measure chance and ridge regression on features of a dataset whose test images have equal numbers of captions."""
    regions, tokens, dataset = Store(features.regions), Store(features.tokens), features.dataset
    test = dataset.select_split("test")
    title = f"{dataset.name}: {len(test.images)} images, {len(test.captions)} captions"
    table = Table("on test", *COLUMNS, title=title, title_justify="left")
    _add(table, "chance", chance_recall(len(test.images), len(test.captions) // len(test.images)))
    for label, means in (("", ("mean", "max")), (", regions weighed by their scores", ("scored", "max"))):
        fit = fit_ridge_on_val(dataset, regions, tokens, ("first", *means))
        metrics = retrieval_metrics(*embed_by_ridge(fit, dataset, regions, tokens, "test")).flat()
        _add(table, f"ridge{label}, penalty {fit.penalty:g}, val {fit.val_rsum:.1f}", metrics)
    Console(width=140).print(table)


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
        cells = [spread([metrics[key] for metrics in metrics_by_seed]) for key in COLUMNS]
        name = preset + (f" ({', '.join(f'{k} {v}' for k, v in changes.items())})" if changes else "")
        table.add_row(f"{name}, {len(metrics_by_seed)} seeds", *cells, spread(val), f"{np.mean(spent):.0f}")
    console.print(table)


@dataclass(frozen=True)
class RidgeFit:
    """A ridge regression and what its inputs need."""

    views: Sequence[Pooling]
    frame: tuple[np.ndarray, ...]
    weights: np.ndarray
    penalty: float
    val_rsum: float


def fit_ridge_on_val(dataset: Dataset, regions: Store, tokens: Store, views: Sequence[Pooling]) -> RidgeFit:
    """Fit ridge regression to `train` and choose its penalty on `val`."""
    images, captions, owners = _split(dataset, regions, tokens, views, "train")
    # Centered, and regions scaled: otherwise a few captions are close to every image.
    frame = images.mean(axis=0), images.std(axis=0) + 1e-6, captions.mean(axis=0)
    framed = _normalize(frame, images, captions)
    fits = []
    for penalty in PENALTIES:
        fit = RidgeFit(views, frame, fit_ridge(*framed, owners, penalty), penalty, 0.0)
        val = retrieval_metrics(*embed_by_ridge(fit, dataset, regions, tokens, "val")).rsum
        fits.append(replace(fit, val_rsum=val))
    return max(fits, key=lambda fit: fit.val_rsum)


def embed_by_ridge(
    fit: RidgeFit, dataset: Dataset, regions: Store, tokens: Store, split: str
) -> tuple[np.ndarray, list[str], np.ndarray, list[str]]:
    """Return the arguments of `retrieval_metrics` for one split: vectors of its images and captions with image ids."""
    images, captions, owners = _split(dataset, regions, tokens, fit.views, split)
    images, captions = _normalize(fit.frame, images, captions)
    predicted = images @ fit.weights[:-1] + fit.weights[-1]
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    names = held_out_ids(dataset, regions, tokens, split)[0]
    return predicted, names, captions, [names[number] for number in owners]


def _add(table: Table, name: str, metrics: dict[str, float]) -> None:
    table.add_row(name, *(f"{metrics[key]:.1f}" for key in COLUMNS))


def spread(values: Sequence[float]) -> str:
    """Format the mean and the standard deviation of the seeds."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _split(
    dataset: Dataset, regions: Store, tokens: Store, views: Sequence[Pooling], split: str
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
