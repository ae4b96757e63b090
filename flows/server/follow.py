"""`tern run`: start a run of a deployment, print its progress, and return an exit code."""

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
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
from pipeline.plan_files import locate_plan
from pipeline.plans import load_plan

POLL_SECONDS = 1.0
NO_WORKER_SECONDS = 60.0  # until a run that no worker has started is reported
IGNORED_LOGGERS = ("prefect.flow_runs.worker", "prefect.flow_runs.runner")
PAGE_LINES = 200  # log lines per request
LATE_LOG_SECONDS = 20.0  # maximum delay of a log line behind a line that was written later
END_OF_LOG_SECONDS = 5.0  # without a new line, after a run ended without its last line; Prefect sends lines every 2 s


def follow_run(
    name: str, plan: str, overrides: tuple[str, ...], parameters: tuple[str, ...], echo: Callable[[str], None]
) -> int:
    """Start a run of a deployment and print its progress.

    Args:
        name: Name of the deployment, or FLOW/DEPLOYMENT.
        plan: Plan file, or the name of a shipped plan. It is read here first, so that an invalid plan starts no run.
        overrides: Settings of the plan to change, each KEY=VALUE.
        parameters: More parameters of the flow, each KEY=VALUE; the value is JSON or a plain word.
        echo: Prints a line.

    Returns:
        0 if the run completed, 1 if it did not, 130 after Ctrl-C, which does not stop the run.

    Raises:
        ValueError: No server answers, the deployment is unknown, or the flow does not accept the parameters.
    """
    load_plan(plan, overrides)
    # The run works in the folder of the deployment.
    values = {"plan": locate_plan(plan), "overrides": list(overrides), **dict(map(_pair, parameters))}
    run, url = None, os.environ.get("PREFECT_API_URL")
    try:
        with get_client(sync_client=True) as client:
            run = _start(client, name if "/" in name else f"{name}/{name}", values)
            echo(f"run     {run.name}  {_page(run)}")
            return _watch(client, run.id, echo)
    except KeyboardInterrupt:
        if run is None:
            raise
        echo(
            f"left    the run continues; `prefect flow-run watch {run.id}` follows it, "
            "`prefect flow-run cancel` stops it"
        )
        return 130
    except (httpx.TransportError, RuntimeError) as error:
        if run is None:
            raise ValueError(f"No Prefect server answers at {url}. Run `tern up`.") from error
        raise ValueError(  # after the client has retried for a minute
            f"The Prefect server at {url} stopped answering. The run {run.name} may still be running. Run `tern up` "
            f"again, then `prefect flow-run watch {run.id}`."
        ) from error


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--param {text!r} has no KEY. Write KEY=VALUE, such as workers=8.")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def _start(client: SyncPrefectClient, name: str, parameters: dict[str, Any]) -> FlowRun:
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        names = ", ".join(sorted(d.name for d in client.read_deployments())) or "none; run `prefect deploy --all`"
        raise ValueError(f"There is no deployment {name!r}. The server has {names}.") from None
    known = sorted((deployment.parameter_openapi_schema or {}).get("properties", parameters))
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}. Its parameters are {', '.join(known)}.")
    try:
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise ValueError(f"The server rejected the run of {name}: {error}") from error
        detail = error.response.json().get("detail", error.response.text)
        raise ValueError(f"{name} does not accept these parameters, and no run was created: {detail}") from error


def _page(run: FlowRun) -> str:
    return f"{os.environ.get('PREFECT_API_URL', '').removesuffix('/api')}/runs/flow-run/{run.id}"


def _watch(client: SyncPrefectClient, run_id: UUID, echo: Callable[[str], None]) -> int:
    state, shown, lines, start = "", dict[UUID, str](), LogTail(client, echo), time.monotonic()
    is_wait_reported = False
    while True:
        run = client.read_flow_run(run_id)
        ids = [run_id, *_children(client, run_id)]
        lines.echo_new(ids)
        _progress(client, ids, shown, echo)
        if run.state and run.state.name != state:
            state = run.state.name or ""
            echo(f"state   {state}  {printable(run.state.message or '')}".rstrip())
        if run.state and run.state.is_final():
            lines.echo_remaining(run_id, ids)
            return 0 if run.state.is_completed() else 1
        if not is_wait_reported and run.start_time is None and time.monotonic() - start > NO_WORKER_SECONDS:
            is_wait_reported = True
            echo(
                f"waiting no worker has started the run for {NO_WORKER_SECONDS:.0f} s. Check that `tern up`, or "
                "another worker, is running and free."
            )
        time.sleep(POLL_SECONDS)


def _children(client: SyncPrefectClient, run_id: UUID) -> list[UUID]:
    children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
    return [child.id for child in client.read_flow_runs(flow_run_filter=children)]


class LogTail:
    """Print the log lines of some runs, each once.

    Lines arrive late and out of order, so new ones are found by id.
    """

    def __init__(self, client: SyncPrefectClient, echo: Callable[[str], None]):
        self._client, self._write = client, echo
        # Times of the lines that are less than `LATE_LOG_SECONDS` older than the latest one.
        self._seen: dict[UUID, datetime] = {}
        self._since: datetime | None = None
        self._finished: set[UUID | None] = set()

    def echo_new(self, ids: list[UUID]) -> int:
        """Print the new lines. Returns the number of new lines, including those that are not printed."""
        log_filter, before, offset = LogFilter(flow_run_id=LogFilterFlowRunId(any_=ids)), len(self._seen), 0
        if self._since:
            log_filter.timestamp = LogFilterTimestamp(after_=self._since)
        while lines := self._client.read_logs(log_filter, limit=PAGE_LINES, offset=offset, sort=LogSort.TIMESTAMP_ASC):
            for line in lines:
                if line.id not in self._seen:
                    self._seen[line.id] = line.timestamp
                    self._echo(line)
            offset += len(lines)
        new = len(self._seen) - before
        if self._seen:
            self._since = max(self._seen.values()) - timedelta(seconds=LATE_LOG_SECONDS)
            self._seen = {line_id: time for line_id, time in self._seen.items() if time >= self._since}
        return new

    def echo_remaining(self, run_id: UUID, ids: list[UUID]) -> None:
        """Print the lines of an ended run up to its last one ("Finished in state").

        If that line does not arrive, it ends when no new line arrives.
        """
        last_line = time.monotonic()
        while True:
            if self.echo_new(ids):
                last_line = time.monotonic()
            if run_id in self._finished or time.monotonic() - last_line > END_OF_LOG_SECONDS:
                return
            time.sleep(POLL_SECONDS / 2)

    def _echo(self, line: Log) -> None:
        if line.message.startswith("Finished in state"):
            if line.task_run_id is None:
                self._finished.add(line.flow_run_id)
        elif line.name not in IGNORED_LOGGERS:
            first, *more = line.message.splitlines() or [""]  # the page of the run shows the traceback
            self._write(f"log     {printable(first)}{' ...' if more else ''}")


def _progress(client: SyncPrefectClient, ids: list[UUID], shown: dict[UUID, str], echo: Callable[[str], None]) -> None:
    """Print the progress artifacts whose description has changed."""
    artifact_filter = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids))
    for artifact in client.read_artifacts(artifact_filter=artifact_filter):
        description = artifact.description or ""
        if artifact.type == "progress" and shown.get(artifact.id) != description:
            shown[artifact.id] = description
            percent = artifact.data if isinstance(artifact.data, int | float) else 0.0
            echo(f"{percent:5.1f} %  {printable(description)}")
