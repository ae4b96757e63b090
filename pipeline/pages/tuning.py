"""Show what `tern index tune` measured, as a table and as a plot."""

from pathlib import Path

from data.io import atomic_write
from index.tuning import TuningLimits, pareto_front
from pipeline.stages.tune import QUERY_KINDS, TuningAdvice


def format_table(advice: TuningAdvice) -> list[list[str]]:
    """Format the measured operating points as cells of a table.

    Returns:
        A header and one row per point, sorted by kind of query and work. The first cell is ">" for the recommended
        point of a kind of query and "*" for points on the Pareto front. Work is computed from counts and decides the
        order; the times in ms are measured, for single queries and for batches of 64.
    """
    front, recommended = pareto_front(advice.points), list(advice.chosen.values())
    head = ["", "queries", "factory", "nprobe", "rescore", "recall@10", "test recall", "work, us", "MB"]
    head += ["ms", "CPU ms", "CPU ms of 64"]
    order = QUERY_KINDS[advice.kind].index
    return [head] + [
        [
            (">" if point in recommended else "") + ("*" if point in front else ""),
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
        for point in sorted(advice.points, key=lambda point: (order(point.query_kind), point.work_us))
    ]


def plot_advice(advice: TuningAdvice, limits: TuningLimits, path: Path) -> None:
    """Plot test recall against work as a PNG file, with one panel per kind of query.

    Args:
        advice: Measured points of one kind of items, and the recommended ones.
        limits: Limits of the advice; the minimum recall is drawn as a line.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    query_kinds = [query_kind for query_kind in QUERY_KINDS[advice.kind] if query_kind in advice.chosen]
    panels = figure.subplots(1, len(query_kinds), squeeze=False)[0]
    for axes, query_kind in zip(panels, query_kinds, strict=True):
        points = [point for point in advice.points if point.query_kind == query_kind]
        for code in dict.fromkeys(point.factory.split(",")[1] for point in points):
            with_code = [point for point in points if point.factory.endswith(f",{code}")]
            axes.plot([p.work_us for p in with_code], [p.test_recall for p in with_code], "o", label=code)
        best = advice.chosen[query_kind]
        axes.plot(
            best.work_us, best.test_recall, "o", markersize=14, fillstyle="none", color="#444444", label="recommended"
        )
        axes.axhline(limits.min_recall, color="#bbbbbb", linestyle=":")
        axes.set(
            xscale="log", xlabel="work, us per query", ylabel="recall@10, test queries", title=f"{query_kind} queries"
        )
        axes.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
