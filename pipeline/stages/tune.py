"""`tern index tune`: what the ladder measures over a plan's own vectors, as a table and a plot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.datasets import Dataset
from data.store import Store
from index.config import KINDS
from index.tuning import OperatingPoint, TuningLimits, choose_point, measure_candidates
from pipeline.stages.dataset import HELD_OUT, held_out_ids, splits_with_captions
from pipeline.stages.results import VectorStores

MAX_SAMPLE_ROWS = 50_000  # rows measured on, at most
MAX_QUERIES = 2_000  # of a kind, at most
QUERY_KINDS = {"image": ("text", "image"), "caption": ("image", "text")}  # what looks for a kind; the first decides


@dataclass(frozen=True)
class TuningAdvice:
    """What was measured for one kind of item, and what was chosen."""

    kind: str  # of what is found: "image", "caption"
    num_sampled: int  # rows measured on
    num_rows: int  # rows there are
    points: list[OperatingPoint]
    chosen: dict[str, OperatingPoint]  # by kind of query

    @property
    def settings(self) -> list[str]:
        """KEY=VALUE for `--set`: lists in proportion to the rows; the build measures how many to probe."""
        best = self.chosen[QUERY_KINDS[self.kind][0]]
        grown = 1 if best.nlist == 1 else best.nlist * round(self.num_rows / self.num_sampled)
        code = best.factory.split(",")[1]
        return [f"index.factory=IVF{{nlist}},{code}", f"index.nlist={grown}", f"index.rescore={best.rescore}"]


def advise_index_settings(
    kind: str, wanted: TuningLimits, vectors: VectorStores, dataset: Dataset, seed: int = 0
) -> TuningAdvice:
    """Measure the ladder over a random sample of the items of `kind` that are not held out.

    The held-out sentences ask, and the held-out images: none of them is in the sample. Raises ValueError if the data
    have no held-out split, too few items, or if nothing keeps the limits.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}; it is one of {', '.join(KINDS)}.")
    splits = splits_with_captions(dataset, HELD_OUT)
    if not splits:
        raise ValueError(
            f"no split of {', '.join(HELD_OUT)} has captions, and queries must not be database vectors: "
            "mark some images as val or test."
        )
    stores = {"image": Store(vectors.images), "caption": Store(vectors.captions)}
    asking = [held_out_ids(dataset, stores["image"], split) for split in splits]
    names = {"image": [n for part in asking for n in part[0]], "text": [n for part in asking for n in part[1]]}
    held = {"image": set(names["image"]), "caption": set(names["text"])}[kind]
    rest = sorted(name for name in stores[kind].ids if name not in held)
    queries = {
        asked: _draw(stores["caption" if asked == "text" else "image"], names[asked], MAX_QUERIES, seed)
        for asked in QUERY_KINDS[kind]
    }
    sample = _draw(stores[kind], rest, MAX_SAMPLE_ROWS, seed)
    rows = len(rest) + len(held)
    points = measure_candidates(sample, queries, wanted, rows, seed)
    chosen = {asked: choose_point(points, wanted, asked) for asked in queries}
    return TuningAdvice(kind, len(sample), rows, points, chosen)


def _draw(store: Store, names: Sequence[str], most: int, seed: int) -> np.ndarray:
    """(n, d) float32 vectors of at most `most` of the names, drawn at random."""
    names = sorted(names)
    places = np.random.Generator(np.random.PCG64(seed)).choice(len(names), min(len(names), most), replace=False)
    return np.asarray(store.read("features", [names[place] for place in np.sort(places)]), np.float32)
