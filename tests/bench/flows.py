"""What a flow adds to the plain stages: seconds a run, milliseconds a shard."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.flow_server import up

SHARDS, SECONDS, RUNS = 100, 0.1, 3

MEASURE = """
import json, sys, time
from prefect import flow
from flows.flows import RUN
from flows.tasks import as_tasks
from pipeline.workers import in_processes
from tests.bench.flows import SECONDS, SHARDS, RUNS, shard

def took(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

@flow
def empty():
    pass

@flow(task_runner=RUN["task_runner"])
def mapped():
    return as_tasks(2, "bench")("bench")(shard, [SECONDS] * SHARDS)

if __name__ == "__main__":
    empty()
    plain = [took(lambda: in_processes(2, "bench")(shard, [SECONDS] * SHARDS)) for _ in range(RUNS)]
    in_flow = {found.name: [took(found) for _ in range(RUNS)] for found in (empty, mapped)}
    print(json.dumps({"plain": plain, **in_flow}))
"""


def shard(seconds: float) -> str:
    """A shard that costs time and nothing else."""
    time.sleep(seconds)
    return "made"


def flows(folder: Path) -> None:
    """An empty run; and `SHARDS` shards on two workers, plain and as tasks; wall clock, the least of `RUNS`."""
    with up(folder / "home") as server:
        ended = server.python(MEASURE)
        assert ended.returncode == 0, ended.stderr
        least = {name: min(times) for name, times in json.loads(ended.stdout.splitlines()[-1]).items()}
        began = time.perf_counter()
        asked = server.get("/deployments/name/reindex/reindex")["id"]
        run = server.post(f"/deployments/{asked}/create_flow_run", {"parameters": {"plan": "gone.toml"}})
        while server.get(f"/flow_runs/{run['id']}")["state"]["type"] not in ("FAILED", "COMPLETED"):
            time.sleep(0.1)
        waits = time.perf_counter() - began
    table = Table("what", "seconds", "", title=f"flows, {SHARDS} shards of {SECONDS} s", title_justify="left")
    table.add_row("the stage alone", f"{least['plain']:.2f}", "two worker processes")
    added = 1000 * (least["mapped"] - least["empty"] - least["plain"]) / SHARDS
    table.add_row("the same in a flow", f"{least['mapped']:.2f}", f"{added:.0f} ms more a shard, besides the run's own")
    table.add_row("an empty flow", f"{least['empty']:.2f}", "what a run adds")
    table.add_row(
        "a deployed run", f"{waits:.2f}", "from the click to the end: the worker's look, a new process, imports"
    )
    Console().print(table)
