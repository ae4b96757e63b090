"""Artifacts of a flow run: tables, curves, galleries, the verdict of the gate. The runs of a plan use the same keys."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from data.store import Store
from data.text import escape_markdown
from flows.tasks.artifact_keys import make_key
from index.config import QUERY_SOURCES
from index.versions import CollectionManifest, GateCheck
from pipeline.lineage import read_lineage
from pipeline.pages import render_contact_sheet, to_data_uri
from pipeline.plans import Plan
from pipeline.runs import describe_chance, describe_training, write_invalid_records
from pipeline.search import Hit, Searcher
from pipeline.stages import Features
from pipeline.workspace import Workspace
from tern.card import read_model_card
from tern.evaluation import RECALL_CUTOFFS, Evaluation
from tern.training import read_history

MAX_ROWS = 1000  # of a table; the complete list is in the workspace
MAX_GALLERIES = 3  # of an artifact
GALLERY_WIDTH = 960  # pixels; the image is stored as text
LEADING_COLUMNS = (
    "split",
    "epoch",
    "loss",
    *(f"{direction}_r{cutoff}" for direction in ("t2i", "i2t") for cutoff in RECALL_CUTOFFS),
    "rsum",
    "chance_rsum",
)


def escape_cell(value: Any) -> Any:
    """Replace the characters of a text that a page would render as markup: Prefect renders cells as Markdown."""
    return escape_markdown(value) if isinstance(value, str) else value


def create_table(rows: list[dict[str, Any]], key: str, description: str) -> None:
    """Create a table artifact with at most `MAX_ROWS` rows.

    Args:
        rows: One dict per row, from column to value; rows may lack columns.
        key: Key of the artifact in Prefect.
        description: Text above the table; the total number of rows is appended if some are left out.
    """
    suffix = f" (the first {MAX_ROWS:,} of {len(rows):,})" if len(rows) > MAX_ROWS else ""
    names = list(dict.fromkeys(name for row in rows for name in row))  # the page reads the columns off the first row
    cells = [{escape_cell(name): escape_cell(row.get(name, "")) for name in names} for row in rows[:MAX_ROWS]]
    create_table_artifact(cells, key=make_key(key), description=f"{escape_markdown(description)}{suffix}")


def create_store_tables(features: Features, workspace: Workspace) -> None:
    """Create the tables of the feature stores and of the invalid records."""
    rows = []
    for folder in (features.regions, *([features.tokens] if features.input_dataset.captions else [])):
        store = Store(folder)
        shards = len(store.manifest.shards)
        rows.append({"store": folder.name, "items": len(store), "shards": shards, "generation": store.generation})
    invalid = [{"name": record.name, "reason": record.reason} for record in features.invalid_records]
    path = write_invalid_records(features, workspace)
    # All files are read before the first table is created, so that a retry does not create a table twice.
    create_table(rows, "stores", f"Feature stores of {features.dataset.name}")
    create_table(invalid, "invalid-records", f"{len(invalid):,} records that could not be used; all of them: {path}")


def create_training_artifacts(model: Path, evaluation: Evaluation) -> None:
    """Create tables of the metrics and epochs, and an image of the curves.

    An imported checkpoint has only metrics. Without held-out captions there are no metrics.
    """
    rows = [
        {"split": name, "chance_rsum": split.chance.rsum if split.chance else "", **split.flat()}
        for name, split in evaluation.splits.items()
    ]
    notes = " ".join([*describe_chance(evaluation), *describe_training(read_model_card(model))])
    if rows:
        create_table([_format_row(row) for row in rows], "metrics", f"Held-out metrics of {model.name}. {notes}")
    if (history := model / "history.csv").is_file():
        epochs = [_format_row(epoch.flat()) for epoch in read_history(history)]
        create_table(epochs, "epochs", "Loss and validation recall by epoch")
    if (curves := model / "curves.png").is_file():
        uri = "data:image/png;base64," + base64.b64encode(curves.read_bytes()).decode()
        create_markdown_artifact(f"![curves]({uri})\n", key=make_key("curves"), description=f"Curves of {model.name}")


def _format_row(row: dict[str, Any]) -> dict[str, Any]:
    """Move the recalls to the front, and round numbers to four digits.

    The page shows the first columns without scrolling.
    """
    names = [*[name for name in LEADING_COLUMNS if name in row], *[name for name in row if name not in LEADING_COLUMNS]]
    return {name: float(f"{row[name]:.4g}") if isinstance(row[name], float) else row[name] for name in names}


def create_publish_artifacts(plan: Plan, version: Path, report: Path) -> None:
    """Create the artifacts of a published version: collections, gate, query results and lineage.

    Args:
        plan: Plan of the index.
        version: Manifest of the published version.
        report: The HTML report.
    """
    searcher = Searcher(plan)
    manifest = searcher.index.manifest
    known = [query for query in plan.report.queries if searcher.knows(query)]
    results = [(query, searcher.search_text(query, plan.report.hits_per_query)) for query in known]
    rows = [_make_collection_row(kind, collection) for kind, collection in manifest.collections.items()]
    create_table(rows, "index", f"Index version {version.stem}")
    if manifest.gate is not None:
        create_gate_table("passed", manifest.gate.checks, version.stem, manifest.gate.not_checked)
    text = f"Index `{escape_markdown(str(version))}`\n\nReport `{escape_markdown(str(report))}`\n"
    create_markdown_artifact(text, key=make_key("published"), description="What is served now")
    galleries = "\n\n".join(_render_gallery(query, hits) for query, hits in results[:MAX_GALLERIES])
    create_markdown_artifact(galleries, key=make_key("gallery"), description=f"What {version.stem} finds")
    lineage = read_lineage(plan.workspace)
    # Both an SVG image and Mermaid: version 1 of Prefect's pages does not render Mermaid.
    uri = "data:image/svg+xml;base64," + base64.b64encode(lineage.to_svg().encode()).decode()
    create_markdown_artifact(
        f"![lineage]({uri})\n\n```mermaid\n{lineage.to_mermaid()}```\n",
        key=make_key("lineage"),
        description=f"Where {version.stem} came from",
    )


def _make_collection_row(kind: str, collection: CollectionManifest) -> dict[str, Any]:
    return {
        "kind": kind,
        "rows": collection.counts.live,
        "dim": collection.dim,
        "factory": collection.factory,
        "nlist": collection.nlist,
        "nprobe": collection.search.nprobe,
        "shards": len(collection.shards),
        "delta shards": sum(shard.role == "delta" for shard in collection.shards),
        "deleted rows": collection.counts.deleted,
        "recall@10": round(collection.recall.recall, 4),
        "measured with": f"{collection.recall.num_test_queries:,} {QUERY_SOURCES[collection.recall.query_source]}",
        "exact search": collection.is_exact,
    }


def _render_gallery(query: str, hits: Sequence[Hit]) -> str:
    sheet = render_contact_sheet(query, hits)
    sheet.thumbnail((GALLERY_WIDTH, GALLERY_WIDTH * 4))
    return f"![{escape_markdown(query)}]({to_data_uri(sheet)})"


def create_gate_table(
    verdict: str, checks: Mapping[str, GateCheck], version: str, not_checked: Mapping[str, str] | None = None
) -> None:
    """Create the table of the checks of a gate, failed ones first; no table without checks.

    Args:
        verdict: Verdict for the heading, such as "passed".
        checks: Checks by name.
        version: Name of the version that was judged.
        not_checked: Why a check could not be made, by its name; None: all were made. They come last.
    """
    if not checks:
        return
    rows = [{"check": name, **check.model_dump(mode="json")} for name, check in checks.items()]
    rows.sort(key=lambda row: row["passed"])
    rows += [{"check": name, "passed": "not checked", "problem": why} for name, why in (not_checked or {}).items()]
    create_table(rows, "gate", f"The gate of {version}: {verdict}")


def create_rejection_artifacts(error: ValueError, served: str) -> None:
    """Create the artifacts of a rejected version.

    These are the reason, the checks of the gate, and the version still served.
    """
    version = getattr(error, "version", None)
    create_gate_table(
        "rejected", getattr(error, "checks", {}), "the candidate" if version is None else f"v{version:08d}"
    )
    text = f"**Rejected.** {escape_markdown(str(error))}\n\nStill served: `{escape_markdown(served)}`\n"
    create_markdown_artifact(text, key=make_key("rejected"), description="A version that did not pass its gate")


def create_rollback_artifact(text: str) -> None:
    """Create the artifact of a run that found a version that a rollback pinned."""
    create_markdown_artifact(f"**Rollback.** {text}\n", key=make_key("rollback"), description="A pinned version")
