"""Runs whose process is gone are ended by the clock, however long the server was away; living runs are left alone."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

pytest.importorskip("prefect")

from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import AwaitingRetry, Cancelling, Completed, Paused, Pending, Running, Scheduled

from flows.server import stale_runs
from flows.server.stale_runs import SILENT_SECONDS, SWEEP_SECONDS, StaleRunSweeper

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
STATES = {"Running": Running, "Pending": Pending, "Cancelling": Cancelling, "Completed": Completed, "Paused": Paused}
STATES |= {"Scheduled": Scheduled, "AwaitingRetry": AwaitingRetry}


class Server:
    """The calls of Prefect's client that a sweep makes."""

    def __init__(self, run: FlowRun, heartbeat: datetime | None = None, workers: tuple[str, ...] = ("tern-up",)):
        self.run, self.heartbeat, self.workers, self.states = run, heartbeat, workers, []

    def read_flow_runs(self, flow_run_filter, limit, offset):
        return [self.run] * (offset == 0 and self.run.state.type in flow_run_filter.state.type.any_)

    def read_events(self, event_filter, limit):
        assert event_filter.resource.id == [f"prefect.flow-run.{self.run.id}"]
        is_in = self.heartbeat and event_filter.occurred.since <= self.heartbeat <= event_filter.occurred.until
        return SimpleNamespace(events=[SimpleNamespace(received=self.heartbeat)] if is_in else [])

    def read_workers_for_work_pool(self, pool):
        return [SimpleNamespace(name=name, status="ONLINE") for name in self.workers]

    def set_flow_run_state(self, run_id, state):
        self.states.append(state)


def make_run(state: str, seconds_ago: float) -> FlowRun:
    time = NOW - timedelta(seconds=seconds_ago)
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="r", state=STATES[state](timestamp=time), work_pool_name="local")


def sweep(server: Server, ready_seconds_ago: float) -> list[StateType]:
    StaleRunSweeper(NOW - timedelta(seconds=ready_seconds_ago)).sweep(server, NOW)
    return [state.type for state in server.states]


DAY = 86_400
# state, its age, seconds since the start of the server, age of the last heartbeat, other workers -> new state
CASES = {
    "away for 10 s": ("Running", 500, 91, 101, (), "CRASHED"),
    "away for 200 s": ("Running", 500, 91, 291, (), "CRASHED"),
    "away for a day": ("Running", DAY + 500, 91, DAY + 91, (), "CRASHED"),
    "away for a year": ("Running", 365 * DAY, 91, None, (), "CRASHED"),
    "killed before its first heartbeat": ("Running", 500, 400, None, (), "CRASHED"),
    "pending": ("Pending", 500, 91, None, (), "CRASHED"),
    "pending since the server started": ("Pending", 100, 400, None, (), "CRASHED"),
    "cancelling": ("Cancelling", 500, 91, 291, (), "CANCELLED"),
    "cancelling for a while": ("Cancelling", 100, 500, 100, (), "CANCELLED"),
    "running on a worker of another machine": ("Running", 500, 400, 100, ("other",), "CRASHED"),
    "server has just started": ("Running", 500, 80, 300, (), None),
    "heartbeats since then": ("Running", 500, 91, 29, (), None),
    "a heartbeat 89 s ago": ("Running", 5000, 400, 89, (), None),
    "a clock ahead": ("Running", 500, 91, -300, (), None),
    "running for a moment": ("Running", 20, 400, None, (), None),
    "pending for a moment": ("Pending", 20, 400, None, (), None),
    "pending at a worker of another machine": ("Pending", 500, 400, None, ("other",), None),
    "cancelling with heartbeats": ("Cancelling", 500, 400, 10, (), None),
    "completed": ("Completed", 500, 400, None, (), None),
    "paused": ("Paused", 500, 400, None, (), None),
    "scheduled": ("Scheduled", 500, 400, None, (), None),
    "waiting for a retry": ("AwaitingRetry", 500, 400, None, (), None),
}


@pytest.mark.parametrize("name", CASES)
def test_sweep_ends_silent_runs_and_no_others(name):
    state, age, ready, heartbeat_age, workers, expected = CASES[name]
    heartbeat = None if heartbeat_age is None else NOW - timedelta(seconds=heartbeat_age)
    server = Server(make_run(state, age), heartbeat, ("tern-up", *workers))
    assert sweep(server, ready) == ([expected] if expected else [])
    if expected:
        assert "there is no sign of its process or machine" in server.states[0].message


def test_sweep_ends_runs_within_two_minutes():
    assert SILENT_SECONDS + 2 * SWEEP_SECONDS < 120


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="processes are found through /proc")
def test_sweep_spares_a_run_with_a_process_on_this_machine():
    server = Server(make_run("Running", 500))
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": str(server.run.id)}
    code = "print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=-1, stdout=-1) as process:
        assert process.stdout.readline() == b"ready\n"
        assert sweep(server, 400) == []
        process.communicate(b"\n")
    assert sweep(server, 400) == ["CRASHED"]


def test_sweep_survives_a_foreign_process_with_an_odd_variable():
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": "no uuid"}
    code = "print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=-1, stdout=-1) as process:
        assert process.stdout.readline() == b"ready\n"
        assert sweep(Server(make_run("Running", 500)), 400) == ["CRASHED"]
        process.communicate(b"\n")


def test_sweep_knows_its_own_worker_by_its_name():
    server = Server(make_run("Pending", 500), workers=("tern-up-a",))
    StaleRunSweeper(NOW - timedelta(seconds=400), "tern-up-b").sweep(server, NOW)
    assert server.states == [], "the worker of another machine may still prepare the run"
    StaleRunSweeper(NOW - timedelta(seconds=400), "tern-up-a").sweep(server, NOW)
    assert [state.type for state in server.states] == ["CRASHED"]


def test_runs_have_time_for_a_heartbeat_after_the_server_was_away(monkeypatch):
    sweeper = StaleRunSweeper(datetime.now(UTC) - timedelta(days=1))
    sweeper._last_sweep -= SWEEP_SECONDS + 1

    def refuse(**_):
        raise OSError("connection refused")

    monkeypatch.setattr(stale_runs, "get_client", refuse)
    sweeper.sweep_if_due(print)
    server, now = Server(make_run("Running", 500)), datetime.now(UTC)
    sweeper.sweep(server, now + timedelta(seconds=SILENT_SECONDS - 10))
    assert server.states == []
    sweeper.sweep(server, now + timedelta(seconds=SILENT_SECONDS + 10))
    assert [state.type for state in server.states] == ["CRASHED"]


# Runs as a machine that is gone left them, and one that sends heartbeats; the clock of the sweep is ahead.
ON_SERVER = """
import json, time
from datetime import UTC, datetime, timedelta
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.states import Cancelling, Pending, Running
from flows.server.stale_runs import HEARTBEAT, StaleRunSweeper, _read_last_heartbeat

STATES = {"running": [Running], "pending": [], "cancelling": [Running, Cancelling], "alive": [Running]}
started = datetime.now(UTC)
with get_client(sync_client=True) as client:
    deployment, runs = client.read_deployment_by_name("train-tern/train-tern"), {}
    for name, states in STATES.items():
        runs[name] = client.create_flow_run_from_deployment(deployment.id, name=name, state=Pending()).id
        for state in states:
            client.set_flow_run_state(runs[name], state(), force=True)
    time.sleep(3)
    emit_event(HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{runs['alive']}"})
    deadline, heartbeat = time.monotonic() + 60, None
    while heartbeat is None and time.monotonic() < deadline:
        time.sleep(0.5)
        heartbeat = _read_last_heartbeat(client, runs["alive"], started)
    shown = []
    for seconds in (80, 89):
        StaleRunSweeper(started).sweep(client, heartbeat + timedelta(seconds=seconds))
        shown.append({name: client.read_flow_run(run).state.name for name, run in runs.items()})
    message = client.read_flow_run(runs["running"]).state.message
    for run in runs.values():
        client.delete_flow_run(run)
    print(json.dumps([*shown, message]))
"""


@pytest.mark.slow
def test_sweep_ends_silent_runs_on_a_server(server):
    ended = server.python(ON_SERVER)
    assert ended.returncode == 0, ended.stderr
    before, after, message = json.loads(ended.stdout.splitlines()[-1])
    states = {"running": "Running", "pending": "Pending", "cancelling": "Cancelling", "alive": "Running"}
    assert before == states
    assert after == {**states, "running": "Crashed", "pending": "Crashed", "cancelling": "Cancelled"}
    assert message.endswith("Run it again; finished work is kept.")
