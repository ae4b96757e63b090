"""Chance and ridge regression on the photographs of the plan `flickr8k`: what a trained model must beat there."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.records import Dataset
from data.store import Store
from pipeline.chain import Chain
from pipeline.plan import load_plan
from pipeline.stages import held_out
from tern.baselines import chance, pooled, ridge
from tern.metrics import retrieval_metrics

SHARED = Path(__file__).parents[3] / "shared" / "flickr8k"
PENALTIES = [10.0**power for power in range(-3, 4)]
COLUMNS = ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10", "rsum")


def flickr8k(folder: Path) -> None:
    """Recalls on `test`, the penalty chosen on `val`."""
    if not SHARED.is_dir():
        Console().print(f"flickr8k: left out, {SHARED} is not there")
        return
    places = {"workspace": folder, "dataset.annotations": SHARED / "dataset_flickr8k.json"}
    places |= {"dataset.images": SHARED / "images", "regions_file.path": SHARED / "regions.npz"}
    chain = Chain(load_plan("flickr8k", tuple(f'{key}="{value}"' for key, value in places.items())))
    regions, tokens, dataset = Store(chain.regions), Store(chain.tokens), chain.usable
    images, captions, owners = _split(dataset, regions, tokens, "train")
    # both sides centred and each number of a region scaled: without it a few captions are near to every image
    frame = images.mean(axis=0), images.std(axis=0) + 1e-6, captions.mean(axis=0)
    framed = _framed(frame, images, captions)
    fits = [(penalty, ridge(*framed, owners, penalty)) for penalty in PENALTIES]
    val = [_score(w, frame, *_split(dataset, regions, tokens, "val"))["rsum"] for _, w in fits]
    penalty, weights = fits[int(np.argmax(val))]
    table = Table("on test", *COLUMNS, title="flickr8k: 100 images, 500 captions", title_justify="left")
    rows = {
        "chance": chance(100, 5),
        f"ridge, penalty {penalty:g}": _score(weights, frame, *_split(dataset, regions, tokens)),
    }
    for name, found in rows.items():
        table.add_row(name, *(f"{found[key]:.1f}" for key in COLUMNS))
    Console().print(table, f"ridge on val, by penalty: {dict(zip(PENALTIES, np.round(val, 1).tolist(), strict=True))}")


def _split(
    dataset: Dataset, regions: Store, tokens: Store, split: str = "test"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First, mean and highest region (n, 3 d), pooled captions of unit length (m, t), owners (m,)."""
    image_ids, caption_ids, names = held_out(dataset, regions, split)
    place = {name: number for number, name in enumerate(image_ids)}
    captions = pooled(tokens, caption_ids)
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    images = np.hstack([pooled(regions, image_ids, how) for how in ("first", "mean", "max")])
    return images, captions, np.array([place[name] for name in names])


def _framed(frame: tuple[np.ndarray, ...], images: np.ndarray, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, d) and captions (m, t) as ridge sees them, by the middle and spread of the training split."""
    middle, spread, goal = frame
    told = captions - goal
    return (images - middle) / spread, told / np.linalg.norm(told, axis=1, keepdims=True)


def _score(
    weights: np.ndarray, frame: tuple[np.ndarray, ...], images: np.ndarray, captions: np.ndarray, owners: np.ndarray
) -> dict[str, float]:
    images, captions = _framed(frame, images, captions)
    guess = images @ weights[:-1] + weights[-1]
    guess /= np.linalg.norm(guess, axis=1, keepdims=True)
    names = [str(number) for number in range(len(images))]
    return retrieval_metrics(guess, names, captions, [names[owner] for owner in owners])
