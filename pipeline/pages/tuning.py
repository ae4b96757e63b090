"""Tuning of `pipeline`."""

from pathlib import Path

from data.io import atomic_write
from index.tuning import TuningLimits, pareto_front
from pipeline.stages.tune import QUERY_KINDS, TuningAdvice


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
