"""Settings that prevent silent errors of Prefect; the tests check that they are set and need no server."""

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.flow_server import await_, free_port, marked
from tests.helpers.forks import ROOT

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow


def test_tasks_have_no_cache_no_kept_results_no_tags_and_no_timeout():
    from prefect.cache_policies import NO_CACHE

    from flows.tasks import shards as tasks

    for task in (tasks.shard, tasks.epoch):
        assert task.cache_policy is NO_CACHE, "Prefect's key has no task in it: tokens would be taken for regions"
        assert task.persist_result is False, "a cache policy of one's own switches it on"
        assert not task.tags, "each costs seconds at the first wave"
        assert task.timeout_seconds is None, "on threads it fires only when the blocking call has ended"
        assert not task.isasync, "called from a plain flow it would give a coroutine that nobody awaits"


def test_flows_are_plain_limited_not_retried_and_their_hooks_take_the_keywords_they_are_called_with():
    from flows import flows

    for flow in (flows.extract_flickr, flows.train_tern, flows.build_index, flows.reindex, flows.pipeline):
        assert (flow.isasync, flow.retries, flow.timeout_seconds) == (False, 0, flows.RUN_TIMEOUT_SECONDS)
        assert not flow.persist_result
        hooks = [flow.on_failure_hooks, flow.on_crashed_hooks, flow.on_cancellation_hooks]
        assert [len(of_a_kind) for of_a_kind in hooks] == [1, 1, 1]
        for (hook,) in hooks:
            assert list(inspect.signature(hook).parameters) == ["flow", "flow_run", "state"]


def test_no_array_crosses_the_border_of_a_task(finished_jobs):
    import numpy as np

    from flows.tasks import shards as tasks
    from pipeline.stages.embed import EmbeddingJob
    from pipeline.stages.extract import ExtractionJob

    assert inspect.signature(tasks.shard.fn).return_annotation is str
    for job in (ExtractionJob, EmbeddingJob):
        assert not [a for a in job.__dataclass_fields__.values() if "ndarray" in str(a.type) or a.type is np.ndarray]
    assert finished_jobs, "the fixture's stages have been watched"
    for label, job, result in finished_jobs:
        assert isinstance(result, str), label
        assert isinstance(job, (ExtractionJob, EmbeddingJob)), label


def test_no_page_takes_text_of_the_data_for_markup():
    from flows.reporting.artifacts import escape_cell

    for text in ("![](http://there/x.png)", "<img src=//there>", "[click](//there)", "`code`", "a | b"):
        assert not set(escape_cell(text)) & set("<>[]`|"), "a page would fetch it, or break its table"
    assert escape_cell(0.5) == 0.5


def test_a_table_has_every_column_in_its_first_row_which_is_where_the_page_looks(monkeypatch):
    from flows.reporting import artifacts
    from index.versions import GateCheck

    made = {}
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, key, description: made.update({key: rows}))
    checks = {
        "rows": GateCheck(passed=True, problem=""),
        "recall": GateCheck(passed=True, value=0.98765, min=0.9),
        "latency": GateCheck(passed=False, value=7.0, max=5.0, unit="ms per query"),
    }
    artifacts.create_gate_table("refused", checks, "v00000002")
    names = ["check", "passed", "value", "max", "unit", "problem", "min"]
    assert [list(row) for row in made["gate"]] == [names] * 3
    assert [row["check"] for row in made["gate"]] == ["latency", "rows", "recall"], "what failed is read first"
    assert made["gate"][2] == dict(zip(names, ["recall", True, 0.98765, "", "", "", 0.9], strict=True))


class Client:
    """A client of a server with some deployments, as (flow, deployment)."""

    def __init__(self, *there: tuple[str, str]):
        self.there = there

    async def read_deployments(self, deployment_filter):
        (name,) = deployment_filter.name.any_
        return [SimpleNamespace(flow_id=flow) for flow, deployed in self.there if deployed == name]

    async def read_flow(self, flow_id):
        return SimpleNamespace(name=flow_id)


@pytest.mark.parametrize(
    ("name", "there", "asked"),
    [
        ("reindex", [("reindex", "reindex")], "reindex/reindex"),
        ("nightly", [("reindex", "nightly")], "reindex/nightly"),
        ("reindex", [("other", "reindex"), ("reindex", "reindex")], "reindex/reindex"),
        ("nobody", [("reindex", "reindex")], "nobody/nobody"),  # the stock answer: not found
        ("a/b", [], "a/b"),
        ("", [], ""),
        ("nightly", [("one", "nightly"), ("two", "nightly")], "several deployments. Pass one of one/nightly, two/"),
    ],
)
def test_a_bare_name_is_the_deployment_that_it_can_only_mean(name, there, asked):
    from flows.plugin import accept_bare_name

    async def stock(client, found):
        return found

    if "several" in asked:
        with pytest.raises(ValueError, match=asked):
            asyncio.run(accept_bare_name(stock)(Client(*there), name))
    else:
        assert asyncio.run(accept_bare_name(stock)(Client(*there), name)) == asked


def test_the_slots_that_a_server_has_lent_outlive_it(tmp_path):
    """Those of Prefect's default, in memory, do not: a slot of a run that dies meanwhile would stay taken."""
    from datetime import timedelta
    from importlib import import_module
    from uuid import uuid4

    from flows.server.environment import PREFECT_SETTINGS

    module = import_module(PREFECT_SETTINGS["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    lent = asyncio.run(module.ConcurrencyLeaseStorage(tmp_path).create_lease([uuid4()], timedelta(seconds=-1)))
    again = module.ConcurrencyLeaseStorage(tmp_path)
    assert asyncio.run(again.read_expired_lease_ids()) == [lent.id], "the next server knows it, and gives it back"
    assert asyncio.run(again.renew_lease(lent.id, timedelta(minutes=5))), "and a run that lives keeps it"
    assert asyncio.run(again.read_expired_lease_ids()) == []


# Replacements of server and worker, which print how often they received a signal to end.
SIGNALED = """
import os, signal, time
signals = []
signal.signal(signal.SIGINT, lambda *_: signals.append(1))
say = lambda words: os.write(1, f"{words}\\n".encode())  # a line at once: both write to one file
say("begun")
while not signals:
    time.sleep(0.05)
say("heard")
time.sleep(2)
say(f"signals {len(signals)}")
"""
UP = """
import signal, sys
from types import SimpleNamespace
from flows.server import up
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or the tests fail under nohup, which `tern up` minds
up.prefect_command = lambda *words: [sys.executable, "-c", sys.argv[1]]
up.wait_until_healthy = lambda port, child: None
sys.modules["flows.server.deploy"] = SimpleNamespace(deploy_all=lambda env: ())
up.run_server_and_worker(int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_children_of_up_are_told_to_end_once_for_the_worker_kills_itself_at_the_second(number, tmp_path):
    with open(tmp_path / "log", "w") as log:
        command, ways = (
            [sys.executable, "-c", UP, SIGNALED, str(free_port())],
            {"stdout": log, "start_new_session": True},
        )
        up = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"TERN_UP": str(tmp_path)}, **ways)
        said = lambda: (tmp_path / "log").read_text()  # noqa: E731
        await_(lambda: said().count("begun") == 2 and "ready" in said(), 90, "not up")
        os.killpg(up.pid, number)  # as a terminal does, for Ctrl-C and when it is closed
        await_(lambda: "heard" in said(), 30, "no signal arrived")
        os.killpg(up.pid, number)  # by someone who cannot wait
        assert up.wait(60) == 0
    assert said().count("signals 1") == 2, said()
    assert marked(f"TERN_UP={tmp_path}") == []


def test_the_plugin_leaves_the_client_alone_outside_of_the_command_line(monkeypatch):
    from prefect.client.orchestration import PrefectClient

    from flows.plugin import setup_environment
    from flows.server.environment import PREFECT_SETTINGS

    stock = PrefectClient.read_deployment_by_name
    setup_environment(ctx=None)
    assert PrefectClient.read_deployment_by_name is stock
    assert PREFECT_SETTINGS["PREFECT_PLUGINS_ENABLED"] == "false", "workers and their runs"


def test_the_constraints_keep_the_bounds_that_prefect_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    lines = re.findall(r"^([\w.\-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pinned = {canonicalize_name(name): version for name, version in lines}
    for line in asked:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), f"{line}, but constraints.txt has {version}"
    bounded = {Requirement(line).name: str(Requirement(line).specifier) for line in asked}
    assert {name: bounded[name] for name in ("prefect", "fastapi")} == {"prefect": "<4,>=3.9.1", "fastapi": "<0.151"}
    assert "sqlalchemy" not in bounded, "the scheduler of Prefect 3.9.1 creates runs with sqlalchemy 2.1 too"
    assert {"prefect", "fastapi", "sqlalchemy"} <= set(pinned)
