"""End the runs whose process or machine is gone, however long the server was away. `tern up` sweeps every few seconds.

The automation `mark-runs-without-heartbeat-crashed` waits for the heartbeats of runs that it has seen while the server
ran, and forgets them with the server. A sweep compares the state of each run with the clock instead.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Cancelled, Crashed, State

from flows.server.environment import WORKER

SILENT_SECONDS = 90.0  # three heartbeats, as in automations.yaml
SWEEP_SECONDS = 10.0
PAGE_RUNS = 200  # runs per request
HEARTBEAT = "prefect.flow-run.heartbeat"
RUN_VARIABLE = b"PREFECT__FLOW_RUN_ID="  # in the environment of the process of a run
log = logging.getLogger(__name__)


class StaleRunSweeper:
    """Looks for runs without a sign of life, and ends them.

    A sign of life is a change of the state, a heartbeat, or a process of the run on this machine. None is expected
    while the server was away, so that the silence begins when the server started.

    Args:
        started: When the server started, or was first reached.
        worker: Name of the worker of this process.
    """

    def __init__(self, started: datetime, worker: str = WORKER) -> None:
        self._started, self._worker = started, worker
        self._last_sweep = time.monotonic()

    def sweep_if_due(self, echo: Callable[[str], None]) -> None:
        """Sweep if the last one was `SWEEP_SECONDS` ago, and print each run that was ended.

        An error of the server is logged: the next sweep follows.
        """
        if time.monotonic() - self._last_sweep < SWEEP_SECONDS:
            return
        try:
            with get_client(sync_client=True) as client:
                for run, state in self.sweep(client, datetime.now(UTC)):
                    echo(f"ended   {run.name}  {state.name}: {state.message}")
        except Exception as error:  # any error of the client or of a busy server
            log.warning("The runs could not be checked, the next check follows: %s", error)
            self._started = datetime.now(UTC)  # the server may have been away, and heartbeats with it
        self._last_sweep = time.monotonic()

    def sweep(self, client: SyncPrefectClient, now: datetime) -> list[tuple[FlowRun, State]]:
        """End the runs that have been silent for `SILENT_SECONDS`. Returns each with its new state."""
        if (now - self._started).total_seconds() < SILENT_SECONDS:
            return []
        ended, local_runs = [], _find_local_runs()
        for run in _read_unfinished_runs(client):
            if run.state is None or run.id in local_runs or not self._is_silent(client, run, now):
                continue
            state = _make_final_state(run.state)
            client.set_flow_run_state(run.id, state)  # the server rejects it if the run has ended in the meantime
            ended.append((run, state))
        return ended

    def _is_silent(self, client: SyncPrefectClient, run: FlowRun, now: datetime) -> bool:
        assert run.state is not None
        silent = timedelta(seconds=SILENT_SECONDS)
        if now - max(self._started, run.state.timestamp) < silent:
            return False
        if run.state.is_pending() and run.work_pool_name and self._has_other_worker(client, run.work_pool_name):
            return False  # no heartbeats yet: a worker on another machine may still prepare the run
        heartbeat = _read_last_heartbeat(client, run.id, now)
        return heartbeat is None or now - heartbeat >= silent

    def _has_other_worker(self, client: SyncPrefectClient, pool: str) -> bool:
        """Return whether a worker that this process did not start is online in a work pool."""
        workers = client.read_workers_for_work_pool(pool)
        return any(worker.status == WorkerStatus.ONLINE and worker.name != self._worker for worker in workers)


def _read_unfinished_runs(client: SyncPrefectClient) -> list[FlowRun]:
    types = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    run_filter = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=run_filter, limit=PAGE_RUNS, offset=len(runs)):
        runs += page
        if len(page) < PAGE_RUNS:
            break
    return runs


def _read_last_heartbeat(client: SyncPrefectClient, run_id: UUID, now: datetime) -> datetime | None:
    day = timedelta(days=1)  # also ahead of now: the clock of another machine may be
    event_filter = EventFilter(
        occurred=EventOccurredFilter(since=now - day, until=now + day),
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run_id}"]),
    )
    events = client.read_events(event_filter, limit=1).events
    return events[0].received if events else None  # by the clock of this machine


def _make_final_state(state: State) -> State:
    reason = f"It was {state.name}, but there is no sign of its process or machine for {SILENT_SECONDS:.0f} s"
    if state.is_cancelling():
        return Cancelled(message=f"{reason}: it is cancelled.")
    return Crashed(message=f"{reason}. Run it again; finished work is kept.")


def _find_local_runs() -> set[UUID]:
    """Find the runs that have a process on this machine, by the environment of all processes of this user.

    Empty on systems without /proc; then only heartbeats count.
    """
    runs = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:  # it has ended, or it belongs to another user
            continue
        for variable in variables:
            if variable.startswith(RUN_VARIABLE):
                with suppress(ValueError):  # a variable of another program
                    runs.add(UUID(variable.removeprefix(RUN_VARIABLE).decode()))
    return runs
