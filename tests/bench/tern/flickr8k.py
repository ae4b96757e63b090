"""Systems on photographs of Flickr8k: recalls with intervals, differences to `vse-infinity`, a learning curve.

Settings are chosen on `val`; `test` is evaluated once per system, settings and seed, and the result is kept.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.datasets import Dataset
from data.store import Store
from pipeline.plans.load import load_plan
from tern.evaluation.baselines import chance_recall
from tern.evaluation.metrics import RECALL_CUTOFFS, summarize_ranks
from tern.training.inputs import TrainingInputs
from tests.bench.tern.baselines import COLUMNS, spread
from tests.bench.tern.flickr8k_systems import NAMES, SYSTEMS, Result, measure_system
from tests.helpers.small_plan import extract_features

REFERENCE = "vse-infinity"
CURVE_SIZES = (250, 600, 1500, 5500)
RESAMPLES = 10_000
PLANS = {"regions": "flickr8k", "grid": "photo-model"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    group = parser.add_argument_group("flickr8k")
    group.add_argument("--data", type=Path, help="folder with images, dataset_flickr8k.json and regions.npz")
    group.add_argument(
        "--features", choices=PLANS, default="regions", help="features of regions.npz, or grids computed"
    )
    group.add_argument("--systems", nargs="+", choices=NAMES, default=list(NAMES), help="default: all")
    group.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    group.add_argument("--curve", action="store_true", help="train on the first 250, 600, 1,500 and 5,500 images")


def flickr8k(folder: Path, options: argparse.Namespace) -> None:
    """Measure the selected systems; finished runs in `folder` are not repeated."""
    if options.data is None or not (options.data / "dataset_flickr8k.json").is_file():
        Console().print(f"flickr8k: left out, --data names no folder with dataset_flickr8k.json: {options.data}")
        return
    folder = folder / options.features
    inputs = extract(options.data, options.features, folder)
    if options.curve:
        total, sizes = inputs.dataset.count_images_by_split()["train"], CURVE_SIZES
        parts = [select_training_images(inputs, size) for size in sizes if size < total]
        for part in [*parts, inputs]:
            show(part, options.systems, options.seeds, folder / "runs")
    else:
        show(inputs, options.systems, options.seeds, folder / "runs")


def extract(data: Path, features: str, folder: Path) -> TrainingInputs:
    """Extract the features of the photographs, or import those of regions.npz."""
    settings = {"workspace": folder, "dataset.annotations": data / "dataset_flickr8k.json"}
    settings |= {"dataset.images": data / "images"}
    lines = [f'{key}="{value}"' for key, value in settings.items()]
    if features == "regions":
        lines += [f'regions_file.path="{data / "regions.npz"}"', 'regions_file.feature_arrays=["lite2"]']
    stores = extract_features(load_plan(PLANS[features], tuple(lines)))
    return TrainingInputs(Store(stores.regions), Store(stores.tokens), stores.dataset)


def select_training_images(inputs: TrainingInputs, size: int) -> TrainingInputs:
    """Keep the first training images in the order of a hash of their ids, so that a smaller part is in a larger one."""
    ids = [image.id for image in inputs.dataset.select_split("train").images]
    ids.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    return inputs._replace(dataset=inputs.dataset.exclude_images(set(ids[size:])))


def show(inputs: TrainingInputs, systems: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Measure systems and print their tables."""
    test, console = inputs.dataset.select_split("test"), Console(width=170)
    sizes = inputs.dataset.count_images_by_split()
    title = f"{sizes['train']:,} training images; {sizes['test']:,} test images, seeds {', '.join(map(str, seeds))}"
    table = Table("on test", *COLUMNS, "rsum, 95 %", "rsum on val", "CPU s per run", title=title, title_justify="left")
    scores: dict[str, np.ndarray] = {}
    for name in systems:
        if name == "chance":
            chance = chance_recall(len(test.images), len(test.captions) // len(test.images))
            table.add_row(name, *(f"{chance[key]:.1f}" for key in COLUMNS), "", "", "")
            continue
        runs: dict[str, list[Result]] = {}
        for seed in seeds if name in SYSTEMS else [0]:
            for variant, result in measure_system(name, seed, inputs, folder).items():
                label = f"{name}, {variant}" if variant else name
                runs.setdefault(label, []).append(result)
                console.print(f"{label}, seed {seed}: rsum {result.val_rsum:.1f} on val", style="dim")
        for label, results in runs.items():
            scores[label] = np.mean([score_images(result, test) for result in results], axis=0)
            table.add_row(label + describe_changes(name), *format_results(results, scores[label]))
    console.print(table)
    if REFERENCE in scores:
        console.print(compare(scores))


def describe_changes(name: str) -> str:
    """Name the settings in which a system differs from its preset."""
    changes = SYSTEMS[name].changes if name in SYSTEMS else {}
    return f" ({', '.join(f'{key} {value}' for key, value in changes.items())})" if changes else ""


def format_results(results: Sequence[Result], scores: np.ndarray) -> list[str]:
    """Format the cells of one system: means and deviations over its seeds, and the interval of their mean rsum."""
    metrics = [summarize_ranks(result.i2t, result.t2i).flat() for result in results]
    low, high = bootstrap(scores)[:, -1]
    cells = [spread([row[key] for row in metrics]) for key in COLUMNS]
    seconds = np.mean([result.cpu_seconds for result in results])
    return [*cells, f"{low:.1f} to {high:.1f}", spread([result.val_rsum for result in results]), f"{seconds:.0f}"]


def compare(scores: Mapping[str, np.ndarray]) -> Table:
    """Make the table of the paired differences to the reference, on the same resampled images."""
    title = f"minus {REFERENCE}, mean over seeds, and 95 % bootstrap interval over images"
    table = Table("on test", "t2i_r1", "i2t_r1", "rsum", title=title, title_justify="left")
    columns = [COLUMNS.index(key) for key in ("t2i_r1", "i2t_r1", "rsum")]
    for label, values in scores.items():
        if label != REFERENCE:
            difference = values - scores[REFERENCE]
            ends = zip(difference.mean(axis=0), *bootstrap(difference), strict=True)
            cells = [f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" for mean, low, high in ends]
            table.add_row(label, *(cells[column] for column in columns))
    return table


def score_images(result: Result, test: Dataset) -> np.ndarray:
    """Return what each image adds to the metrics of `COLUMNS`, in percent: (N, 7). The mean over images is the metric.

    An image is the query of i2t; its captions, of which every image has equally many, are those of t2i.
    """
    row = {image.id: number for number, image in enumerate(test.images)}
    owners = np.array([row[caption.image_id] for caption in test.captions])
    counts = np.bincount(owners, minlength=len(row))
    if counts.min() != counts.max():
        raise ValueError("The images of test have different numbers of captions. Use a dataset with equal numbers.")
    t2i = [np.bincount(owners, result.t2i < k, len(row)) / counts for k in RECALL_CUTOFFS]
    values = 100 * np.stack([*t2i, *(result.i2t < k for k in RECALL_CUTOFFS)], axis=1)
    return np.hstack([values, values.sum(axis=1, keepdims=True)])


def bootstrap(values: np.ndarray) -> np.ndarray:
    """Compute the 95 % percentile intervals of means over images, drawn with replacement: (N, c) -> (2, c)."""
    counts = np.random.default_rng(0).multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
    interval: np.ndarray = np.percentile(counts @ values / len(values), [2.5, 97.5], axis=0)
    return interval
