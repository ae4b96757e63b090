"""The command line: a command parses, calls one function, prints. It imports the heavy libraries it needs itself."""

import errno
import os
import sys
from concurrent.futures import BrokenExecutor
from importlib.metadata import entry_points
from pathlib import Path
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import index_build as upkeep_commands
from pipeline.cli import index_versions as index_commands
from pipeline.cli.store import app as store_commands
from pipeline.cli.weights import app as weights_commands

if TYPE_CHECKING:
    from pipeline.runs.runner import PipelineRunner


HELP = """Search photographs with sentences, and sentences with photographs.

A plan (a TOML file, or the name of a shipped one) says which data, which extractors, which model. Every command makes
what it needs and has not been made yet; run again, it redoes nothing.
"""
DISK_ERROR_HINTS = {  # what a disk may refuse, and the way out
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of your quota",
    errno.EFBIG: "Lift the limit on the size of files (ulimit -f), or make shards smaller (images_per_shard),",
}
PlanOption = Annotated[str, typer.Option("--plan", "-p", help="A plan file, or the name of a shipped plan.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting of the plan: KEY=VALUE, for instance train.seed=1. Repeatable."),
]


def build_app() -> typer.Typer:
    """The application, with the commands that installed packages add to it."""
    app = typer.Typer(
        help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    for command in (demo, extract, train, evaluate, search, report, misses, pipeline, plans, serve, lineage):
        app.command()(command)
    indexing = typer.Typer(rich_markup_mode="rich")
    indexing.callback(invoke_without_command=True)(index)
    indexing.command("build")(index_build)
    indexing.command()(tune)
    index_commands.add_to(indexing)
    upkeep_commands.add_to(indexing)
    app.add_typer(indexing, name="index")
    app.add_typer(store_commands, name="store")
    app.add_typer(weights_commands, name="weights")
    for point in entry_points(group="tern.commands"):
        point.load()(app)
    return app


def main() -> None:
    """Run the command line; an error of the user's is one line, without a traceback."""
    # Waiting threads sleep: spinning ones beside another busy process made an epoch 30 s for 12 (alone 3.9 for 4.3).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        build_app()(standalone_mode=True)
    except (ValueError, OSError, ImportError, CalledProcessError, BrokenExecutor) as error:
        from data.text import printable

        lines = "\n".join(map(printable, str(error).split("\n")))  # it may name a file, which anyone may have named
        hint = DISK_ERROR_HINTS.get(getattr(error, "errno", None), "")
        again = f". {hint} and run the same command again: what was finished is kept." if hint else ""
        typer.secho(f"error: {lines}{again}", fg="red", err=True)
        sys.exit(1)


def _chain(plan: str, overrides: list[str] | None, several: bool = False) -> "PipelineRunner":
    from pipeline.plans.load import load_plan
    from pipeline.runs.runner import PipelineRunner
    from pipeline.runs.workers import make_process_map
    from tern.parallel import is_torchrun

    if is_torchrun() and not several:
        raise ValueError("torchrun is for `train` alone: train with it first, then run this command without it")
    loaded = load_plan(plan, tuple(overrides or ()))
    return PipelineRunner(loaded, lambda label: make_process_map(loaded.workers, label), _print_epoch)


def _print_epoch(row: dict[str, float]) -> None:
    seconds = row["seconds_left"]
    left = f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s"
    recall = f"val R@1 {row['t2i_r1']:5.1f} text to image, {row['i2t_r1']:5.1f} image to text, rsum {row['rsum']:5.1f}"
    head = f"epoch {row['epoch']:>3}/{row['epochs']}  loss {row['loss']:9.3f}"
    typer.echo(f"{head}  {recall}  {row['seconds']:4.1f} s, {left} left", err=True)


def demo(overrides: SetOption = None) -> None:
    """The whole pipeline on the embedded dataset, and a page to look at. [dim]Example: tern demo[/dim]"""
    pipeline("demo", overrides)


def pipeline(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """All stages of a plan, in order. [dim]Example: tern pipeline --plan flickr30k[/dim]"""
    from pipeline.pages.report import write_report

    chain = _chain(plan, overrides)
    _print_refused(chain)
    _print_metrics(chain.metrics)
    typer.echo(f"index   {chain.index}")
    typer.echo(f"report  {write_report(chain)}")


def extract(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Region and token features into stores. [dim]Example: tern extract --plan flickr30k --set workers=8[/dim]"""
    chain = _chain(plan, overrides)
    _print_refused(chain)
    typer.echo(f"regions  {chain.regions}\ntokens   {chain.tokens}")


def train(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Train TERN on the features, in one process or under torchrun.

    [dim]Examples: tern train --set train.seed=1 --set train.epochs=40
    torchrun --nproc-per-node 2 -m pipeline.cli train --plan flickr30k[/dim]
    """
    from tern.parallel import is_main_process

    model = _chain(plan, overrides, several=True).model
    if is_main_process():
        typer.echo(f"model  {model}")


def evaluate(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Recall in both directions on the held-out splits. [dim]Example: tern evaluate --plan flickr8k[/dim]"""
    _print_metrics(_chain(plan, overrides).metrics)


def index(context: typer.Context, plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Build and publish a version of the index; a training set that has changed is trained on first.

    [dim]Example: tern index --set index.shards=8[/dim]
    """
    if context.invoked_subcommand:
        if plan != "demo" or overrides:
            raise ValueError(f"--plan and --set go behind {context.invoked_subcommand!r}, not before it")
        return
    chain = _chain(plan, overrides)
    typer.echo(f"index  {chain.index}")


def index_build(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """The same as `tern index` alone. [dim]Example: tern index build --plan flickr30k[/dim]"""
    typer.echo(f"index  {_chain(plan, overrides).index}")


def tune(
    min_recall: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the exact best 10 to be found.")] = 0.95,
    max_memory_gb: Annotated[float, typer.Option(min=0, help="GB for lists, centroids and vectors.")] = 8,
    max_latency_ms: Annotated[float, typer.Option(min=0, help="ms a query, one at a time, on this machine.")] = 5,
    kind: Annotated[str, typer.Option(help="What is looked for: image or caption.")] = "image",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Measure codes, lists, probes and rescoring on held-out sentences and photographs, and say what to set.

    [dim]Example: tern index tune --min-recall 0.95 --max-memory-gb 8 --max-latency-ms 5[/dim]
    """
    from index.tuning import TuningLimits
    from pipeline.pages.tuning import format_table, plot_advice
    from pipeline.stages.tune import advise_index_settings

    chain, wanted = _chain(plan, overrides), TuningLimits(min_recall, max_memory_gb * 1e9, max_latency_ms / 1e3)
    advice = advise_index_settings(kind, wanted, chain.vectors, chain.usable, chain.plan.index.seed)
    rows = format_table(advice)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    picture = chain.plan.workspace / f"tune-{kind}.png"
    plot_advice(advice, wanted, picture)
    typer.echo(
        f"> chosen for its queries, * beaten by none; measured on {advice.num_sampled} of {advice.num_rows} rows"
    )
    typer.echo(f"plot   {picture}")
    settings = [*advice.settings, f"index.target_recall={min_recall:g}"]
    typer.echo("build  tern index " + " ".join(f"--set '{setting}'" for setting in settings))


def search(
    sentence: Annotated[str | None, typer.Argument(help="What to look for among the images.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A photograph to find captions for, in place of a sentence.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many hits.")] = 8,
    where: Annotated[
        str | None, typer.Option(help="Filter over the metadata (docs/reference/filters.md).", metavar="FILTER")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Also write the hits as a page (.html) or a picture (.png).")
    ] = None,
    version: Annotated[str, typer.Option(help="A version's number or tag; empty: the one that is served.")] = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Search the published index.

    [dim]Examples: tern search "two dogs are running along the street" --gallery dogs.png
    tern search "dogs" --where "split = 'test' and width >= 400 and not caption like '%cat%'"
    tern search --image photo.jpg[/dim]
    """
    if (sentence is None) == (image is None):
        raise typer.BadParameter("give a sentence or --image, one of the two")
    from data.text import printable
    from index.versions import resolve_version
    from pipeline.pages.gallery import write_gallery
    from pipeline.plans.load import load_plan
    from pipeline.search.searcher import Searcher

    loaded = load_plan(plan, tuple(overrides or ()))
    searcher = Searcher(loaded, resolve_version(loaded.workspace / "index", version) if version else None)
    hits = searcher.search_text(sentence, k, where) if sentence is not None else searcher.search_image(image, k, where)
    for number, hit in enumerate(hits, 1):
        text = printable(hit.captions[0]) if hit.captions else ""
        typer.echo(f"{number:>3}  {hit.score:.3f}  {printable(hit.id)}  {text}")
    if not hits:
        typer.echo("nothing answers to the filter" if where else "the index is empty", err=True)
    if gallery:
        typer.echo(f"gallery  {write_gallery(gallery, sentence or image.name, hits)}")


def report(plan: PlanOption = "demo", overrides: SetOption = None) -> None:
    """Write the page of results: curves, metrics, galleries. [dim]Example: tern report --plan flickr8k[/dim]"""
    from pipeline.pages.report import write_report

    typer.echo(f"report  {write_report(_chain(plan, overrides))}")


def misses(
    split: Annotated[str, typer.Option(help="Which split is asked and answers.")] = "test",
    k: Annotated[int, typer.Option("-k", min=1, help="A right answer behind the first k is a miss.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Misses shown of each direction, worst first.")] = 40,
    output: Annotated[Path | None, typer.Option(help="The page (.html), in place of misses-SPLIT.html.")] = None,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Write a page of what was not found, and what won instead: captions and images, with pictures.

    [dim]Examples: tern misses
    tern misses --plan flickr8k --split val -k 10 --limit 100 --output misses.html[/dim]
    """
    from pipeline.pages.misses import DIRECTIONS, find_misses, misses_path, write_misses
    from pipeline.runs.progress import progress_bar

    chain = _chain(plan, overrides)
    found = find_misses(chain.vectors, chain.usable, split, k, limit)
    for way, label in DIRECTIONS.items():
        behind = f"behind the first {k}" if k > 1 else "not first"
        typer.echo(
            f"{label}  {found.num_missed[way]:,} of {found.num_queries[way]:,} {behind}, {len(found.worst[way])} shown"
        )
    with progress_bar("misses", sum(map(len, found.worst.values()))) as advance:
        page = write_misses(output or misses_path(chain.plan.workspace, split), found, chain.usable, advance)
    typer.echo(f"misses  {page}")


def plans() -> None:
    """List the shipped plans. [dim]Example: tern plans[/dim]"""
    from pipeline.plan_files import shipped_plans

    for name, path in shipped_plans().items():
        typer.echo(f"{name:<12} {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")


def lineage(
    plan: PlanOption = "demo",
    every: Annotated[
        bool, typer.Option("--all", help="All that lies in the workspace, not only what is served.")
    ] = False,
    mermaid: Annotated[bool, typer.Option(help="As a Mermaid flow chart.")] = False,
    overrides: SetOption = None,
) -> None:
    """Where the index came from: stores, model, vectors, version. [dim]Example: tern lineage --plan demo --all[/dim]"""
    from pipeline.lineage import read_lineage
    from pipeline.plans.load import load_plan

    found = read_lineage(load_plan(plan, tuple(overrides or ())).workspace, every)
    typer.echo(found.to_mermaid() if mermaid else found.to_text(), nl=False)


def serve(
    plan: PlanOption = "demo",
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is seen by this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    overrides: SetOption = None,
) -> None:
    """A search page and a JSON interface. [dim]Example: tern serve --plan demo --port 8080[/dim]"""
    from pipeline.plans.load import load_plan
    from pipeline.service.app import serve

    serve(load_plan(plan, tuple(overrides or ())), host, port)


def _print_refused(chain: "PipelineRunner") -> None:
    from data.text import printable

    refused = chain.list_invalid_records()
    for name, reason in refused[:20]:
        typer.secho(f"set aside  {printable(name)}: {printable(reason)}", fg="yellow", err=True)
    path = chain.write_invalid_records()
    if refused:
        more = f"; {len(refused) - 20:,} are not shown" if len(refused) > 20 else ""
        typer.secho(f"set aside  {len(refused):,} in all{more}; {path} lists them", fg="yellow", err=True)
    if cut := chain.count_truncated_captions():
        count, limit = len(chain.dataset.captions), chain.plan.text.max_tokens
        typer.secho(f"cut        {cut:,} of {count:,} captions were cut to {limit} tokens", fg="yellow", err=True)


def _print_metrics(path: Path) -> None:
    from data.io import read_json

    typer.echo("split   direction      R@1    R@5   R@10  median   mean    rsum")
    for split, m in read_json(path).items():
        for way, name in (("t2i", "text to image"), ("i2t", "image to text")):
            recalls = "  ".join(f"{m[f'{way}_r{k}']:5.1f}" for k in (1, 5, 10))
            ranks = f"{m[f'{way}_medr']:6.0f}  {m[f'{way}_meanr']:5.1f}"
            typer.echo(f"{split:<7} {name}  {recalls}  {ranks}  {m['rsum']:6.1f}")
        for key, value in m.items():
            if key.startswith("fold_") or "_ndcg_" in key:
                typer.echo(f"{split:<7} {key:<24} {value:8.3f}")


if __name__ == "__main__":
    main()
