"""The five flows. Remove the decorators and the code still works: the stages know nothing of Prefect."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from data.files import read_json
from data.store import Store
from flows.tasks import as_tasks
from index import Index
from pipeline.chain import Chain
from pipeline.plan import load_plan
from pipeline.report import write_report

THREADS = ThreadPoolTaskRunner(max_workers=256)  # they only wait; `workers` of the plan says how many processes work


def _chain(plan: str, overrides: list[str] | None, pinned: Path | None = None) -> Chain:
    loaded = load_plan(plan, tuple(overrides or ()))
    return Chain(loaded, as_tasks(loaded.workers), _log_epoch, pinned)


def _log_epoch(row: dict[str, float]) -> None:
    text = "epoch %d of %d: loss %.3f, val R@1 %.1f text to image, %.1f image to text, rsum %.1f, %.0f s left"
    keys = ("epoch", "epochs", "loss", "t2i_r1", "i2t_r1", "rsum", "seconds_left")
    get_run_logger().info(text, *(row[key] for key in keys))


@flow(name="extract-flickr", flow_run_name="extract {plan}", task_runner=THREADS)
def extract_flickr(plan: str = "flickr30k", overrides: list[str] | None = None) -> list[str]:
    """Region and token features of what is new or changed, into the stores.

    Args:
        plan: A plan file, or the name of a shipped plan.
        overrides: Settings to change, each KEY=VALUE.
    """
    chain = _chain(plan, overrides)
    rows = []
    for folder in (chain.regions, chain.tokens):
        store = Store(folder)
        shards = len(store.manifest["shards"])
        rows.append({"store": folder.name, "items": len(store), "shards": shards, "generation": store.generation})
    refused = [{"name": name, "reason": reason} for name, reason in chain.set_aside()]
    create_table_artifact(rows, key="stores", description=f"Feature stores of {chain.dataset.name}")
    create_table_artifact(refused, key="set-aside", description=f"{len(refused)} records that could not be used")
    return [str(chain.regions), str(chain.tokens)]


@flow(name="train-tern", flow_run_name="train {plan}", task_runner=THREADS)
def train_tern(plan: str = "flickr30k", overrides: list[str] | None = None) -> str:
    """Train TERN on the stores, and evaluate it on the held-out splits.

    Args:
        plan: A plan file, or the name of a shipped plan.
        overrides: Settings to change, each KEY=VALUE.
    """
    chain = _chain(plan, overrides)
    model, metrics = chain.model, read_json(chain.metrics)
    rows = [{"split": split, **{k: round(v, 2) for k, v in found.items()}} for split, found in metrics.items()]
    create_table_artifact(rows, key="metrics", description=f"Held-out metrics of {model.name}")
    history = (model / "history.csv").read_text(encoding="utf-8").splitlines()
    create_table_artifact(_table(history), key="epochs", description="Loss and validation recall by epoch")
    return str(model)


@flow(name="build-index", flow_run_name="index {plan}", task_runner=THREADS)
def build_index(plan: str = "flickr30k", overrides: list[str] | None = None) -> str:
    """Build and publish a version of the index, and write the report.

    Args:
        plan: A plan file, or the name of a shipped plan.
        overrides: Settings to change, each KEY=VALUE.
    """
    return _publish(_chain(plan, overrides))


@flow(name="reindex", flow_run_name="reindex {plan}", task_runner=THREADS)
def reindex(plan: str = "flickr30k", overrides: list[str] | None = None) -> str:
    """What is new or changed in the data set goes into the index, with the model that the index was built with.

    Args:
        plan: A plan file, or the name of a shipped plan.
        overrides: Settings to change, each KEY=VALUE.
    """
    workspace = load_plan(plan, tuple(overrides or ())).workspace
    with Index.open(workspace / "index") as published:
        before, model = published.folder, workspace / "models" / published.manifest["provenance"]["model"]
    after = _publish(_chain(plan, overrides, pinned=model))
    if Path(after) == before:
        get_run_logger().info("nothing to do: %s holds all that the data set has", before.name)
    return after


@flow(name="pipeline", flow_run_name="pipeline {plan}", task_runner=THREADS)
def pipeline(plan: str = "flickr30k", overrides: list[str] | None = None) -> str:
    """Extraction, training and index, one after another.

    Args:
        plan: A plan file, or the name of a shipped plan.
        overrides: Settings to change, each KEY=VALUE.
    """
    extract_flickr(plan, overrides)
    train_tern(plan, overrides)
    return build_index(plan, overrides)


def _publish(chain: Chain) -> str:
    version = chain.index
    about = read_json(version / "manifest.json")
    rows = [_collection(kind, found) for kind, found in about["collections"].items()]
    create_table_artifact(rows, key="index", description=f"Index version {version.name}")
    text = f"Index `{version}`\n\nReport `{write_report(chain)}`\n"
    create_markdown_artifact(text, key="published", description="What is served now")
    return str(version)


def _collection(kind: str, about: dict[str, Any]) -> dict[str, Any]:
    shown = {key: about[key] for key in ("rows", "dim", "factory", "nlist", "nprobe")}
    return {"kind": kind, **shown, "shards": len(about["shards"]), "recall@10": round(about["recall"]["recall"], 4)}


def _table(lines: list[str]) -> list[dict[str, str]]:
    names, *rows = (line.split(",") for line in lines)
    return [dict(zip(names, row, strict=True)) for row in rows]
