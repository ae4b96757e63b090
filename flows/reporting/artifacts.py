"""What a watcher finds in a run: tables, curves, galleries, the gate's verdict. Keys stay the same from run to run."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from data.store import Store
from index.versions import CollectionManifest, GateCheck
from pipeline.lineage import read_lineage
from pipeline.pages import render_contact_sheet, to_data_uri
from pipeline.plans import Plan
from pipeline.runs import write_invalid_records
from pipeline.search import Searcher
from pipeline.stages import Features
from pipeline.workspace import Workspace
from tern.evaluation import RECALL_CUTOFFS, Evaluation

ROWS = 1000  # of a table; the whole list lies in the workspace
QUERIES = 3  # galleries an artifact
WIDTH = 960  # pixels of a gallery: the picture travels as text
LEADING_COLUMNS = (
    "split",
    "epoch",
    "loss",
    *(f"{way}_r{cut}" for way in ("t2i", "i2t") for cut in RECALL_CUTOFFS),
    "rsum",
)
# Prefect's pages read cells as Markdown and HTML: a file named `![](http://...)` would make the browser call out.
CELL_ESCAPES = str.maketrans("<>[]`|", "‹›()'¦")  # that every font has: the full-width ones read as boxes


def escape_cell(value: Any) -> Any:
    """A value for a table's cell: text that no page takes for markup."""
    return value.translate(CELL_ESCAPES) if isinstance(value, str) else value


def create_table(rows: list[dict[str, Any]], key: str, description: str) -> None:
    """A table artifact of at most `ROWS` rows; the description says how many there are."""
    more = f" (the first {ROWS:,} of {len(rows):,})" if len(rows) > ROWS else ""
    names = list(dict.fromkeys(name for row in rows for name in row))  # the page takes its columns from the first row
    shown = [{name: escape_cell(row.get(name, "")) for name in names} for row in rows[:ROWS]]
    create_table_artifact(shown, key=key, description=f"{escape_cell(description)}{more}")


def create_store_tables(features: Features, workspace: Workspace) -> None:
    """Create the tables of the feature stores and of the invalid records."""
    rows = []
    for folder in (features.regions, features.tokens):
        store = Store(folder)
        shards = len(store.manifest.shards)
        rows.append({"store": folder.name, "items": len(store), "shards": shards, "generation": store.generation})
    invalid = [{"name": record.name, "reason": record.reason} for record in features.invalid_records]
    path = write_invalid_records(features, workspace)
    # All files are read before the first table is created, so that a retry does not create a table twice.
    create_table(rows, "stores", f"Feature stores of {features.dataset.name}")
    create_table(invalid, "invalid-records", f"{len(invalid):,} records that could not be used; all of them: {path}")


def create_training_artifacts(model: Path, evaluation: Evaluation) -> None:
    """Create tables of the metrics and epochs, and an image of the curves; of an imported checkpoint only metrics."""
    rows = [{"split": name, **split.flat()} for name, split in evaluation.splits.items()]
    create_table([_readable(row) for row in rows], "metrics", f"Held-out metrics of {model.name}")
    if (history := model / "history.csv").is_file():
        names, *lines = history.read_text(encoding="utf-8").splitlines()
        epochs = [dict(zip(names.split(","), map(float, line.split(",")), strict=True)) for line in lines]
        create_table([_readable(row) for row in epochs], "epochs", "Loss and validation recall by epoch")
    if (curves := model / "curves.png").is_file():
        picture = "data:image/png;base64," + base64.b64encode(curves.read_bytes()).decode()
        create_markdown_artifact(f"![curves]({picture})\n", key="curves", description=f"Curves of {model.name}")


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """The same with recalls first, which the page shows without scrolling, and no more digits than one reads."""
    names = [*[name for name in LEADING_COLUMNS if name in row], *[name for name in row if name not in LEADING_COLUMNS]]
    return {name: float(f"{row[name]:.4g}") if isinstance(row[name], float) else row[name] for name in names}


def create_publish_artifacts(plan: Plan, version: Path, report: Path) -> None:
    """Create the artifacts of the published version: collections, gate, lineage, and results of the report's queries."""
    searcher = Searcher(plan)
    manifest = searcher.index.manifest
    found = [(query, searcher.search_text(query, plan.report.hits_per_query)) for query in plan.report.queries]
    rows = [_collection(kind, about) for kind, about in manifest.collections.items()]
    create_table(rows, "index", f"Index version {version.stem}")
    create_gate_table("passed", manifest.gate.checks if manifest.gate else {}, version.stem)
    text = f"Index `{version}`\n\nReport `{report}`\n"
    create_markdown_artifact(text, key="published", description="What is served now")
    pictures = "\n\n".join(_gallery(query, hits) for query, hits in found[:QUERIES])
    create_markdown_artifact(pictures, key="gallery", description=f"What {version.stem} finds")
    found = read_lineage(plan.workspace)
    drawn = "data:image/svg+xml;base64," + base64.b64encode(found.to_svg().encode()).decode()  # V1 draws no Mermaid
    create_markdown_artifact(
        f"![lineage]({drawn})\n\n```mermaid\n{found.to_mermaid()}```\n",
        key="lineage",
        description=f"Where {version.stem} came from",
    )


def _collection(kind: str, about: CollectionManifest) -> dict[str, Any]:
    return {
        "kind": kind,
        "rows": about.counts.live,
        "dim": about.dim,
        "factory": about.factory,
        "nlist": about.nlist,
        "nprobe": about.search.nprobe,
        "shards": len(about.shards),
        "delta shards": sum(shard.role == "delta" for shard in about.shards),
        "deleted rows": about.counts.deleted,
        "recall@10": round(about.recall.recall, 4),
    }


def _gallery(query: str, hits: list[Any]) -> str:
    picture = render_contact_sheet(query, hits)
    picture.thumbnail((WIDTH, WIDTH * 4))
    return f"![{escape_cell(query)}]({to_data_uri(picture)})"


def create_gate_table(verdict: str, checks: Mapping[str, GateCheck], version: str) -> None:
    """Create the table of the checks of a gate, failed ones first; nothing without checks."""
    if not checks:
        return
    rows = [{"check": name, **check.model_dump(mode="json")} for name, check in checks.items()]
    rows.sort(key=lambda row: row["passed"])
    create_table(rows, "gate", f"The gate of {version}: {verdict}")


def create_rejection_artifacts(error: ValueError, served: str) -> None:
    """The report of a version that did not pass: the reason, the checks if there are any, and what is served still."""
    version = getattr(error, "version", None)
    create_gate_table(
        "rejected", getattr(error, "checks", {}), "the candidate" if version is None else f"v{version:08d}"
    )
    text = f"**Refused.** {escape_cell(str(error))}\n\nServed as before: `{escape_cell(served)}`\n"
    create_markdown_artifact(text, key="rejected", description="A version that did not pass its gate")
