"""A deployment started, its run followed in the terminal, its verdict the exit code."""

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun, Log
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from data.text import printable
from pipeline.plans import load_plan

POLL_SECONDS = 1.0  # between two looks
NO_WORKER_SECONDS = 60.0  # seconds, until a run that no worker has taken is remarked on
NOISE = ("prefect.flow_runs.worker", "prefect.flow_runs.runner")
PAGE = 200  # log lines a request
LATE_LOG_SECONDS = 20.0  # seconds, by which a line may come after one that was written later
END_OF_LOG_SECONDS = (
    5.0  # seconds without a line, of a run that has ended without saying so: Prefect sends lines every 2 s
)


def follow_run(
    name: str, plan: str, overrides: tuple[str, ...], parameters: tuple[str, ...], echo: Callable[[str], None]
) -> int:
    """Start the deployment `name` and tell its progress by `say`; returns 0 if the run completed, 1 if not, 130 after
    Ctrl-C, which leaves it going.

    plan, overrides  as of the command line; read here first, so that a wrong one makes no run
    given            more parameters of the flow, KEY=VALUE, the value in JSON or a bare word

    Raises ValueError for no server, an unknown deployment, or parameters that the flow does not take.
    """
    load_plan(plan, overrides)
    where = str(Path(plan).resolve()) if plan.endswith(".toml") else plan  # the run works in the deployed folder
    values = {"plan": where, "overrides": list(overrides), **dict(map(_pair, parameters))}
    run, at = None, os.environ.get("PREFECT_API_URL")
    try:
        with get_client(sync_client=True) as client:
            run = _start(client, name if "/" in name else f"{name}/{name}", values)
            echo(f"run     {run.name}  {_page(run)}")
            return _watch(client, run.id, echo)
    except KeyboardInterrupt:
        if run is None:
            raise
        echo(f"left    the run goes on; `prefect flow-run watch {run.id}` follows it, `cancel` in place of it ends it")
        return 130
    except (httpx.TransportError, RuntimeError) as error:
        if run is None:
            raise ValueError(f"no Prefect server answers at {at}: start `tern up`.") from error
        raise ValueError(  # the client has asked again for a minute
            f"the Prefect server at {at} answers no longer, so this no longer follows run {run.name}, which may still "
            f"be going: start `tern up` again, then `prefect flow-run watch {run.id}`."
        ) from error


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--param {text!r}: write KEY=VALUE, for instance workers=8")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _start(client: SyncPrefectClient, name: str, parameters: dict[str, Any]) -> FlowRun:
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        there = ", ".join(sorted(d.name for d in client.read_deployments())) or "none: `prefect deploy --all`"
        raise ValueError(f"no deployment {name!r}; there are {there}.") from None
    takes = sorted((deployment.parameter_openapi_schema or {}).get("properties", parameters))
    if unknown := sorted(set(parameters) - set(takes)):
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}: it takes {', '.join(takes)}.")
    try:
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise ValueError(f"the server refused the run of {name}: {error}") from error
        detail = error.response.json().get("detail", error.response.text)
        raise ValueError(f"{name} does not take these parameters, and no run was made: {detail}") from error


def _page(run: FlowRun) -> str:
    return f"{os.environ.get('PREFECT_API_URL', '').removesuffix('/api')}/runs/flow-run/{run.id}"


def _watch(client: SyncPrefectClient, run_id: UUID, say: Callable[[str], None]) -> int:
    state, told, lines, began, patient = "", {}, LogTail(client, say), time.monotonic(), True
    while True:
        run = client.read_flow_run(run_id)
        ids = [run_id, *_children(client, run_id)]
        lines.echo_new(ids)
        _progress(client, ids, told, say)
        if run.state and run.state.name != state:
            state = run.state.name
            say(f"state   {state}  {printable(run.state.message or '')}".rstrip())
        if run.state and run.state.is_final():
            lines.echo_remaining(run_id, ids)
            return 0 if run.state.is_completed() else 1
        if patient and run.start_time is None and time.monotonic() - began > NO_WORKER_SECONDS:
            patient = False
            say(
                f"waiting no worker has taken the run for {NO_WORKER_SECONDS:.0f} s: is `tern up` or a worker running, and free?"
            )
        time.sleep(POLL_SECONDS)


def _children(client: SyncPrefectClient, run_id: UUID) -> list[UUID]:
    mine = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
    return [child.id for child in client.read_flow_runs(flow_run_filter=mine)]


class LogTail:
    """The log lines of some runs, each told once. They come late and out of order, so that ids say which are new."""

    def __init__(self, client: SyncPrefectClient, say: Callable[[str], None]):
        self._client, self._say = client, say
        self._seen: dict[UUID, datetime] = {}  # ids within `LATE` of the latest line
        self._since: datetime | None = None
        self._finished: set[UUID | None] = set()

    def echo_new(self, ids: list[UUID]) -> int:
        """Tell the lines that are new by now; returns how many there were, told or not."""
        mine, before, offset = LogFilter(flow_run_id=LogFilterFlowRunId(any_=ids)), len(self._seen), 0
        if self._since:
            mine.timestamp = LogFilterTimestamp(after_=self._since)
        while lines := self._client.read_logs(mine, limit=PAGE, offset=offset, sort=LogSort.TIMESTAMP_ASC):
            for line in lines:
                if line.id not in self._seen:
                    self._seen[line.id] = line.timestamp
                    self._tell(line)
            offset += len(lines)
        new = len(self._seen) - before
        if self._seen:
            self._since = max(self._seen.values()) - timedelta(seconds=LATE_LOG_SECONDS)
            self._seen = {name: at for name, at in self._seen.items() if at >= self._since}
        return new

    def echo_remaining(self, run_id: UUID, ids: list[UUID]) -> None:
        """Tell those of a run that has ended until its last one, which is the engine's, or none for `QUIET` seconds."""
        heard = time.monotonic()
        while True:
            if self.echo_new(ids):
                heard = time.monotonic()
            if run_id in self._finished or time.monotonic() - heard > END_OF_LOG_SECONDS:
                return
            time.sleep(POLL_SECONDS / 2)

    def _tell(self, line: Log) -> None:
        if line.message.startswith("Finished in state"):
            if line.task_run_id is None:
                self._finished.add(line.flow_run_id)
        elif line.name not in NOISE:
            first, *more = line.message.splitlines() or [""]  # a traceback is for the run's page
            self._say(f"log     {printable(first)}{' ...' if more else ''}")


def _progress(client: SyncPrefectClient, ids: list[UUID], told: dict[UUID, str], say: Callable[[str], None]) -> None:
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids))
    for artifact in client.read_artifacts(artifact_filter=mine):
        if artifact.type == "progress" and told.get(artifact.id) != artifact.description:
            told[artifact.id] = artifact.description
            say(f"{float(artifact.data or 0):5.1f} %  {printable(artifact.description or '')}")
