"""Settings that prevent silent errors of Prefect. These tests need no server."""

import asyncio
import inspect
import os
import platform
import re
import signal
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.flow_server import free_port, list_processes_with, wait_until
from tests.helpers.forks import ROOT

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow


def test_tasks_have_no_cache_results_tags_or_timeout():
    from prefect.cache_policies import NO_CACHE

    from flows.tasks import shards as tasks

    for task in (tasks.shard, tasks.epoch):
        assert task.cache_policy is NO_CACHE, (
            "Prefect's cache key does not contain the task: tokens would be mistaken for regions"
        )
        assert task.persist_result is False, "an explicit cache policy enables it"
        assert not task.tags, "each tag costs seconds when the first tasks start"
        assert task.timeout_seconds is None, "on threads it takes effect only after the blocking call"
        assert not task.isasync, "a plain flow would receive a coroutine that is never awaited"


def test_flows_have_a_time_limit_no_retries_and_one_hook_per_failure_state():
    from flows import flows

    for flow in (flows.extract_flickr, flows.train_tern, flows.build_index, flows.reindex, flows.pipeline):
        assert (flow.isasync, flow.retries, flow.timeout_seconds) == (False, 0, flows.RUN_TIMEOUT_SECONDS)
        assert not flow.persist_result
        hooks = [flow.on_failure_hooks, flow.on_crashed_hooks, flow.on_cancellation_hooks]
        assert [len(hooks_of_state) for hooks_of_state in hooks] == [1, 1, 1]
        for (hook,) in hooks:
            assert list(inspect.signature(hook).parameters) == ["flow", "flow_run", "state"]


def test_tasks_receive_and_return_no_arrays(finished_jobs):
    import numpy as np

    from flows.tasks import shards as tasks
    from pipeline.stages.embed import EmbeddingJob
    from pipeline.stages.extract import ExtractionJob

    assert inspect.signature(tasks.shard.fn).return_annotation is str
    for job in (ExtractionJob, EmbeddingJob):
        assert not [a for a in job.__dataclass_fields__.values() if "ndarray" in str(a.type) or a.type is np.ndarray]
    assert finished_jobs, "the fixture recorded the jobs"
    for label, job, result in finished_jobs:
        assert isinstance(result, str), label
        assert isinstance(job, (ExtractionJob, EmbeddingJob)), label


def test_escape_cell_removes_markup():
    from flows.reporting.artifacts import escape_cell

    for text in ("![](http://there/x.png)", "<img src=//there>", "[click](//there)", "`code`", "a | b"):
        assert not set(escape_cell(text)) & set("<>[]`|"), "the page would load it, or its table would break"
    assert escape_cell(0.5) == 0.5


def test_gate_table_has_every_column_in_its_first_row(monkeypatch):
    from flows.reporting import artifacts
    from index.versions import GateCheck

    tables = {}
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, key, description: tables.update({key: rows}))
    checks = {
        "rows": GateCheck(passed=True, problem=""),
        "recall": GateCheck(passed=True, value=0.98765, min=0.9),
        "latency": GateCheck(passed=False, value=7.0, max=5.0, unit="ms per query"),
    }
    artifacts.create_gate_table("refused", checks, "v00000002")
    names = ["check", "passed", "value", "max", "unit", "problem", "min"]
    assert [list(row) for row in tables["gate"]] == [names] * 3
    assert [row["check"] for row in tables["gate"]] == ["latency", "rows", "recall"], "failed checks come first"
    assert tables["gate"][2] == dict(zip(names, ["recall", True, 0.98765, "", "", "", 0.9], strict=True))


class Client:
    """A client of a server with some deployments, given as (flow, deployment)."""

    def __init__(self, *deployments: tuple[str, str]):
        self.deployments = deployments

    async def read_deployments(self, deployment_filter):
        (name,) = deployment_filter.name.any_
        return [SimpleNamespace(flow_id=flow) for flow, deployment in self.deployments if deployment == name]

    async def read_flow(self, flow_id):
        return SimpleNamespace(name=flow_id)


@pytest.mark.parametrize(
    ("name", "deployments", "expected"),
    [
        ("reindex", [("reindex", "reindex")], "reindex/reindex"),
        ("nightly", [("reindex", "nightly")], "reindex/nightly"),
        ("reindex", [("other", "reindex"), ("reindex", "reindex")], "reindex/reindex"),
        ("nobody", [("reindex", "reindex")], "nobody/nobody"),  # as without the plugin: not found
        ("a/b", [], "a/b"),
        ("", [], ""),
        ("nightly", [("one", "nightly"), ("two", "nightly")], "several deployments. Pass one of one/nightly, two/"),
    ],
)
def test_accept_bare_name_finds_the_only_deployment_of_that_name(name, deployments, expected):
    from flows.plugin import accept_bare_name

    async def return_name(client, name):
        return name

    if "several" in expected:
        with pytest.raises(ValueError, match=expected):
            asyncio.run(accept_bare_name(return_name)(Client(*deployments), name))
    else:
        assert asyncio.run(accept_bare_name(return_name)(Client(*deployments), name)) == expected


def test_concurrency_leases_survive_a_server_restart(tmp_path):
    """Prefect keeps leases in memory by default, so a restarted server would never free the slot of a killed run."""
    from datetime import timedelta
    from importlib import import_module
    from uuid import uuid4

    from flows.server.environment import PREFECT_SETTINGS

    module = import_module(PREFECT_SETTINGS["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    lease = asyncio.run(module.ConcurrencyLeaseStorage(tmp_path).create_lease([uuid4()], timedelta(seconds=-1)))
    restarted = module.ConcurrencyLeaseStorage(tmp_path)
    assert asyncio.run(restarted.read_expired_lease_ids()) == [lease.id], (
        "the next server finds the lease and frees the slot"
    )
    assert asyncio.run(restarted.renew_lease(lease.id, timedelta(minutes=5))), "a live run keeps its slot"
    assert asyncio.run(restarted.read_expired_lease_ids()) == []


# Replaces server and worker; prints how often it received a signal to end.
CHILD_CODE = """
import os, signal, time
signals = []
signal.signal(signal.SIGINT, lambda *_: signals.append(1))
say = lambda text: os.write(1, f"{text}\\n".encode())  # one call per line: both processes write to one file
say("begun")
while not signals:
    time.sleep(0.05)
say("heard")
time.sleep(2)
say(f"signals {len(signals)}")
"""
UP_CODE = """
import signal, sys
from types import SimpleNamespace
from flows.server import up
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores the signal, and `tern up` keeps that
up.prefect_command = lambda *words: [sys.executable, "-c", sys.argv[1]]
up.wait_until_healthy = lambda port, child: None
sys.modules["flows.server.deploy"] = SimpleNamespace(deploy_all=lambda env: ())
up.run_server_and_worker(int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_sends_its_children_one_signal_only(number, tmp_path):
    with open(tmp_path / "log", "w") as log:
        command, options = (
            [sys.executable, "-c", UP_CODE, CHILD_CODE, str(free_port())],
            {"stdout": log, "start_new_session": True},
        )
        up = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"TERN_UP": str(tmp_path)}, **options)
        read_log = lambda: (tmp_path / "log").read_text()  # noqa: E731
        wait_until(lambda: read_log().count("begun") == 2 and "ready" in read_log(), 90, "not up")
        os.killpg(up.pid, number)  # as a terminal does, for Ctrl-C and when it is closed
        wait_until(lambda: "heard" in read_log(), 30, "no signal arrived")
        os.killpg(up.pid, number)  # a second time, as by an impatient user
        assert up.wait(60) == 0
    assert read_log().count("signals 1") == 2, read_log()
    assert list_processes_with(f"TERN_UP={tmp_path}") == []


NO_SERVER_CODE = """
import sys
from types import SimpleNamespace
from flows.server import up
up.prefect_command = lambda *words: [sys.executable, "-c", f"import os; print(*{words}, os.environ['PREFECT_API_URL'])"]
up.wait_until_healthy = lambda url, child: print("waits for", url, child, flush=True)
sys.modules["flows.server.deploy"] = SimpleNamespace(deploy_all=lambda env: ["all"])
up.run_server_and_worker(None)
"""


def test_up_without_a_server_runs_a_worker_for_the_one_of_the_environment():
    url = "http://10.0.0.7:4200/api"
    out = subprocess.run(
        [sys.executable, "-c", NO_SERVER_CODE],
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": url},
        capture_output=True,
        text=True,
    )
    lines = out.stdout.splitlines()
    assert lines[0] == f"waits for {url} None"
    worker = f"worker start --pool local --type process --name tern-up-{platform.node()} {url}"
    assert sorted(lines[1:]) == [
        "ready  http://10.0.0.7:4200  then, in another terminal: tern run pipeline --plan demo",
        "still on  all",
        worker,
    ]
    assert "The Prefect worker ended with code 0" in out.stderr


def test_plugin_changes_the_client_only_in_the_command_line(monkeypatch):
    from prefect.client.orchestration import PrefectClient

    from flows.plugin import setup_environment
    from flows.server.environment import PREFECT_SETTINGS

    original = PrefectClient.read_deployment_by_name
    setup_environment(ctx=None)
    assert PrefectClient.read_deployment_by_name is original
    assert PREFECT_SETTINGS["PREFECT_PLUGINS_ENABLED"] == "false", "workers and their runs do without the plugin"


def test_constraints_satisfy_the_bounds_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    lines = re.findall(r"^([\w.\-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pinned = {canonicalize_name(name): version for name, version in lines}
    for line in requirements:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), f"{line}, but constraints.txt has {version}"
    bounds = {Requirement(line).name: str(Requirement(line).specifier) for line in requirements}
    assert {name: bounds[name] for name in ("prefect", "fastapi")} == {"prefect": "<4,>=3.9.1", "fastapi": "<0.151"}
    assert "sqlalchemy" not in bounds, "the scheduler of Prefect 3.9.1 creates runs with sqlalchemy 2.1 too"
    assert {"prefect", "fastapi", "sqlalchemy"} <= set(pinned)
