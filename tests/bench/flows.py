"""Cost of a flow in addition to the plain stages: seconds per run and milliseconds per shard."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.helpers.flow_server import Server, up
from tests.helpers.small_plan import small_plan

SHARDS, SECONDS, RUNS = 100, 0.1, 3
SMALL = ["images_per_shard=1", "captions_per_shard=5"]  # 72 shards of the small plan's 36 images


def shard(seconds: float) -> str:
    """Sleep, as the work of one shard."""
    time.sleep(seconds)
    return "made"


def measure_seconds(call: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_sleeping_shards() -> dict[str, list[float]]:
    """Measure seconds of `SHARDS` sleeping shards, plain and as tasks, and of an empty flow; `RUNS` of each."""
    from prefect import flow

    from flows.flows import FLOW_OPTIONS
    from flows.tasks.shards import make_task_map_factory
    from pipeline.workers import make_process_map

    @flow
    def empty() -> None:
        pass

    @flow(task_runner=FLOW_OPTIONS["task_runner"])
    def mapped() -> list[str]:
        return make_task_map_factory(2, "bench")("bench")(shard, [SECONDS] * SHARDS)

    empty()
    plain = [measure_seconds(lambda: make_process_map(2, "bench")(shard, [SECONDS] * SHARDS)) for _ in range(RUNS)]
    return {
        "plain": plain,
        **{tested_flow.name: [measure_seconds(tested_flow) for _ in range(RUNS)] for tested_flow in (empty, mapped)},
    }


def measure_stages(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Measure (plain, flow) seconds of the stages of the small plan, from scratch and with finished stages."""
    from flows import flows
    from pipeline.pages.report import write_report
    from pipeline.plans.load import load_plan
    from pipeline.runs.runner import PipelineRunner
    from pipeline.stages.results import Features, Vectors
    from pipeline.workers import make_process_map

    plan = str(small_plan(folder, workers=2))
    make_runner = lambda: PipelineRunner(load_plan(plan, tuple(SMALL)), lambda stage: make_process_map(2, stage))  # noqa: E731

    def extract() -> Features:
        runner = make_runner()
        return runner.extract(runner.load_dataset())

    def embed() -> tuple[PipelineRunner, Vectors]:
        runner = make_runner()
        features = runner.extract(runner.load_dataset())
        return runner, runner.embed(features, runner.train(features))

    def evaluate() -> Path:
        runner, vectors = embed()
        return runner.evaluate(vectors)

    def publish() -> Path:
        runner, vectors = embed()
        return runner.publish_index(vectors)

    stores = folder / "run" / "stores"

    def time_from_scratch(call: Callable[[], object]) -> float:
        shutil.rmtree(stores, ignore_errors=True)
        return measure_seconds(call)

    _ = publish(), flows.build_index(plan, SMALL)
    stages = {
        "extract-flickr": (extract, lambda: flows.extract_flickr(plan, SMALL)),
        "train-tern": (evaluate, lambda: flows.train_tern(plan, SMALL)),
        "build-index": (lambda: write_report(make_runner().run_all()), lambda: flows.build_index(plan, SMALL)),
        "reindex": (publish, lambda: flows.reindex(plan, SMALL)),
        "pipeline, four runs": (lambda: write_report(make_runner().run_all()), lambda: flows.pipeline(plan, SMALL)),
    }
    fresh = [tuple(time_from_scratch(call) for call in stages["extract-flickr"]) for _ in range(RUNS)]
    return {
        "from scratch": fresh,
        **{name: [tuple(map(measure_seconds, calls)) for _ in range(RUNS)] for name, calls in stages.items()},
    }


def flows(folder: Path) -> None:
    """Measure real stages, sleeping shards, an empty run and a deployed run; wall clock, minimum of `RUNS`."""
    with up(folder / "home") as server:
        stages = _run_in_fork(server, f"measure_stages(Path({str(folder)!r}))")
        sleeping = {name: min(times) for name, times in _run_in_fork(server, "measure_sleeping_shards()").items()}
        deployed_seconds = measure_seconds(lambda: _run_deployment(server))
    minimum = {name: [min(times) for times in zip(*pairs, strict=True)] for name, pairs in stages.items()}
    shards = 72
    table = Table("what", "plain", "flow", "", title="flows, seconds of wall clock", title_justify="left")
    runs = {name: pair[1] - pair[0] for name, pair in minimum.items() if name != "from scratch"}
    for name, added in runs.items():
        table.add_row(f"{name}, all finished", *(f"{s:.2f}" for s in minimum[name]), f"{added:.2f} s more")
    added = 1000 * (minimum["from scratch"][1] - minimum["from scratch"][0] - runs["extract-flickr"]) / shards
    table.add_row(
        f"extraction, {shards} shards", *(f"{s:.2f}" for s in minimum["from scratch"]), f"{added:.0f} ms more per shard"
    )
    added = 1000 * (sleeping["mapped"] - sleeping["empty"] - sleeping["plain"]) / SHARDS
    note = f"{added:.0f} ms more per shard"
    table.add_row(f"{SHARDS} shards of {SECONDS} s", f"{sleeping['plain']:.2f}", f"{sleeping['mapped']:.2f}", note)
    table.add_row("an empty flow", "", f"{sleeping['empty']:.2f}", "Prefect's own second at the end of a run")
    table.add_row(
        "a deployed run", "", f"{deployed_seconds:.2f}", "click to end: the worker's poll, a new process, imports"
    )
    Console().print(table)


def _run_in_fork(server: Server, call: str) -> dict[str, list]:
    code = f"import json, sys; from pathlib import Path; from tests.bench.flows import *; print(json.dumps({call}))"
    process = server.forks.run(code, seconds=1200)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def _run_deployment(server: Server) -> None:
    deployment_id = server.get("/deployments/name/reindex/reindex")["id"]
    run = server.post(f"/deployments/{deployment_id}/create_flow_run", {"parameters": {"plan": "gone.toml"}})
    while server.get(f"/flow_runs/{run['id']}")["state"]["type"] not in ("FAILED", "COMPLETED"):
        time.sleep(0.1)
