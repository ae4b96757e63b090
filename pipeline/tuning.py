"""`tern index tune`: what the ladder measures over a plan's own vectors, as a table and a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import atomic_write
from data.records import Dataset
from data.store import Store
from index.choice import OperatingPoint, TuningLimits, choose_point, pareto_front
from index.collection import KINDS
from index.ladder import measure_candidates
from pipeline.stages import HELD_OUT, VectorStores, held_out_ids, splits_with_captions

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


def format_table(advice: TuningAdvice) -> list[list[str]]:
    """A header and a row a point, by kind of query and work; "*" is on the Pareto front, ">" chosen.

    Work is counted, and decides; milliseconds were measured, of one query at a time and of 64.
    """
    front, chosen = pareto_front(advice.points), list(advice.chosen.values())
    head = ["", "queries", "factory", "nprobe", "rescore", "recall@10", "judged", "work, us", "MB"]
    head += ["ms", "CPU ms", "CPU ms of 64"]
    return [head] + [
        [
            (">" if point in chosen else "") + ("*" if point in front else ""),
            point.query_kind,
            point.factory,
            str(point.nprobe),
            str(point.rescore),
            f"{point.recall:.3f}",
            f"{point.test_recall:.3f}",
            f"{point.work_us:,.1f}",
            f"{point.memory_bytes / 1e6:,.2f}",
            *(f"{1e3 * seconds:.3f}" for seconds in (point.latency_s, point.cpu_s_single, point.cpu_s_batch)),
        ]
        for point in sorted(advice.points, key=lambda p: (QUERY_KINDS[advice.kind].index(p.query_kind), p.work_us))
    ]


def plot_advice(advice: TuningAdvice, wanted: TuningLimits, path: Path) -> None:
    """Judged recall against work as a PNG, one panel a kind of query."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, asked in zip(figure.subplots(1, 2), QUERY_KINDS[advice.kind], strict=True):
        mine = [point for point in advice.points if point.query_kind == asked]
        for code in dict.fromkeys(point.factory.split(",")[1] for point in mine):
            some = [point for point in mine if point.factory.endswith(f",{code}")]
            axes.plot([p.work_us for p in some], [p.test_recall for p in some], "o", label=code)
        best = advice.chosen[asked]
        axes.plot(best.work_us, best.test_recall, "o", markersize=14, fillstyle="none", color="#444444", label="chosen")
        axes.axhline(wanted.min_recall, color="#bbbbbb", linestyle=":")
        axes.set(xscale="log", xlabel="work, counted us a query", ylabel="recall@10, judged", title=f"{asked} queries")
        axes.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
