"""A real Prefect server and worker on loopback: deployed, run by the commands, read back through the API."""

import json
import os
import socket
import tomllib
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from data.store.store import Store
from index.versions.folder import manifest_path, read_version_manifest
from pipeline.plans.load import load_plan
from tests.helpers.flow_server import free_port, wait_until
from tests.helpers.forks import ROOT
from tests.helpers.small_plan import small_plan

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow
NAMES = ["build-index", "extract-flickr", "pipeline", "reindex", "train-tern"]
KEYS = {"name", "entrypoint", "description", "tags", "parameters", "work_pool", "concurrency_limit", "schedules"}
KEYS |= {"triggers"}


def test_prefect_yaml_has_only_keys_that_prefect_reads():
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert set(content) == {"name", "pull", "deployments"}
    assert sorted(entry["name"] for entry in content["deployments"]) == NAMES
    for entry in content["deployments"]:
        assert set(entry) <= KEYS, entry["name"]
        module, _, function = entry["entrypoint"].rpartition(".")
        flow = getattr(__import__(module, fromlist=[function]), function)
        assert flow.name == entry["name"], "flow and deployment share a name"
        assert set(entry["parameters"]) <= set(flow.parameters.properties)
        assert set(entry["work_pool"]) == {"name"}
        assert set(entry["concurrency_limit"]) == {"limit", "collision_strategy"}
        for schedule in entry.get("schedules", []):
            assert set(schedule) <= {"cron", "timezone", "slug", "active", "parameters"}
            assert schedule["slug"], "a new deployment finds the active schedule by its slug"
        for trigger in entry.get("triggers", []):
            assert set(trigger) <= {"name", "description", "enabled", "match", "expect", "parameters"}


def test_prefect_toml_and_environment_have_only_settings_of_prefect():
    from prefect.settings import Settings

    from flows.server.environment import PREFECT_SETTINGS

    def check_known(model, values):
        assert set(values) <= set(model.model_fields), model
        model.model_validate(values)
        for name, nested in values.items():
            if isinstance(nested, dict):
                check_known(model.model_fields[name].annotation, nested)

    content = tomllib.loads((ROOT / "prefect.toml").read_text())
    check_known(Settings, content)
    assert content["api"]["url"].startswith("http://127.0.0.1:"), "the server listens on loopback only"
    assert content["server"]["ui"] == {"v2_enabled": False}
    assert set(PREFECT_SETTINGS) - {"DO_NOT_TRACK", "RAY_USAGE_STATS_ENABLED"} <= set(
        Settings().to_environment_variables()
    )


def test_every_flow_parameter_has_a_description_and_bounds():
    from flows import flows

    for flow in (flows.extract_flickr, flows.train_tern, flows.build_index, flows.reindex, flows.pipeline):
        for name, schema in flow.parameters.properties.items():
            assert schema.get("description"), f"{flow.name}: {name}"
    assert "flickr30k" in flows.reindex.parameters.properties["plan"]["pattern"]
    assert flows.extract_flickr.parameters.properties["workers"]["anyOf"][0]["maximum"] == 256


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    return small_plan(tmp_path_factory.mktemp("plan"), workers=2)


def list_edges(tasks: list[dict]) -> list[dict]:
    return [edge for task in tasks for inputs in task["task_inputs"].values() for edge in inputs if "id" in edge]


def test_deployment_runs_by_both_forms_of_its_name_and_writes_the_stores_of_the_command_line(
    server, finished_pipeline, plan
):
    """Both start at the same time, so that one run waits for the other."""
    assert sorted(deployment["name"] for deployment in server.post("/deployments/filter", {})) == NAMES
    # The first form needs the plugin, the second does not; runs work in the folder that was deployed.
    forms = (("extract-flickr", plan), ("extract-flickr/extract-flickr", os.path.relpath(plan, ROOT)))
    commands = [["deployment", "run", name, "--param", f"plan={path}", "--watch"] for name, path in forms]
    for process in [server.start("prefect", *command) for command in commands]:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    first, second = sorted(server.runs("extract-flickr")[:2], key=lambda run: run["start_time"])  # others ran before
    states = [server.get(f"/flow_run_states/?flow_run_id={run['id']}") for run in (first, second)]
    assert any(s["name"] == "AwaitingConcurrencySlot" for history in states for s in history), "one waits for the other"
    assert first["end_time"] < second["start_time"]
    assert (first["state"]["type"], first["name"][:20]) == ("COMPLETED", "extract-flickr demo ")
    names = sorted(task["name"] for task in server.tasks(first) if task["name"].startswith(("region", "token")))
    stages = ("region-features", "token-features")
    assert names == [f"{stage} demo {number:03d}" for stage in stages for number in range(4)]
    assert {task["state"]["type"] for task in server.tasks(first)} == {"COMPLETED"}
    assert list_edges(server.tasks(first)) == [], "shards do not depend on each other"
    assert server.tasks(second) == [], "finished work is not repeated"
    workspace = load_plan(str(plan)).workspace
    for folder in (workspace / "stores").iterdir():
        expected = finished_pipeline.plan.workspace / "stores" / folder.name
        assert Store(folder).ids == Store(expected).ids, "flow and command line write the same stores"
    ended = server.prefect("deployment", "run", "nobody")
    assert ended.returncode == 1
    assert "not found" in ended.stdout + ended.stderr


def test_tern_run_follows_a_pipeline_and_its_artifacts_are_on_the_server(server, plan):
    from flows.runs import MODEL_CREATED

    process = server.tern("run", "pipeline", "--plan", str(plan), "--set", "train.epochs=2", "--port", str(server.port))
    assert process.returncode == 0, process.stdout + process.stderr
    assert "epoch 2 of 2" in process.stdout, "the terminal shows the progress"
    assert "state   Completed" in process.stdout
    extract, train, index = (server.runs(name)[0] for name in ("extract-flickr", "train-tern", "build-index"))
    for run in (extract, train, index):
        assert set(server.artifacts(run)) >= {"stores", "invalid-records"}
    artifacts = server.artifacts(train)
    assert set(artifacts) >= {"metrics", "epochs", "curves", "training-progress"}
    assert artifacts["training-progress"]["data"] == 100
    rows = json.loads(artifacts["epochs"]["data"])
    assert [row["epoch"] for row in rows] == [1, 2]
    assert list(rows[0])[:3] == ["epoch", "loss", "t2i_r1"], "the most important columns come first"
    assert all(len(str(value)) <= 9 for value in rows[0].values())
    epochs = [t for t in server.tasks(train) if t["name"].startswith("epoch")]
    assert sorted(t["name"] for t in epochs) == ["epoch demo 001", "epoch demo 002"]
    assert list_edges(epochs) == [], "epochs do not depend on each other"
    event_filter = {"filter": {"event": {"name": [MODEL_CREATED]}}}
    events = server.post("/events/filter", event_filter)["events"]
    assert [event for event in events if event["resource"]["plan"] == str(plan)] == [], (
        "a pipeline builds the index itself"
    )
    lines = [(line["level"], line["message"]) for line in server.logs(train)]
    assert any(level == 20 and "epoch 2 of 2" in message for level, message in lines), lines
    index_artifacts = server.artifacts(index)
    assert set(index_artifacts) >= {"index", "published", "gallery", "lineage"}
    assert "data:image/jpeg;base64," in index_artifacts["gallery"]["data"]
    assert "v00000001" in index_artifacts["lineage"]["data"]
    assert "```mermaid\ngraph LR\n" in index_artifacts["lineage"]["data"]
    assert (load_plan(str(plan)).workspace / "report.html").is_file()


def test_reindex_without_changes_ends_as_nothing_to_do_and_invalid_values_create_no_run(server, plan):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server.follow import follow_run

    settings_arguments, runs_before = ("--set", "train.epochs=2"), server.runs("reindex")
    with server.start(
        "pipeline.cli", "run", "reindex", "--plan", str(plan), *settings_arguments, "--port", str(server.port)
    ) as process:
        list_pending = lambda: [r for r in server.new_runs("reindex", runs_before) if r["state_type"] == "PENDING"]  # noqa: E731
        (run,) = wait_until(list_pending, 60, "no worker took the run")
        url = f"/deployments/{run['deployment_id']}/create_flow_run"
        second = server.post(url, {"parameters": run["parameters"]})
        state = lambda: server.get(f"/flow_runs/{second['id']}")["state"]["type"]  # noqa: E731
        wait_until(lambda: state() in ("COMPLETED", "CANCELLED"), 60, "the second run did not end")
        assert state() == "CANCELLED", "an overlapping run is cancelled"
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    run = server.get(f"/flow_runs/{run['id']}")
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "NothingToDo")
    assert "nothing to do: v00000001 holds all that demo has" in run["state"]["message"]
    assert "NothingToDo" in output
    current = load_plan(str(plan)).workspace / "index" / "CURRENT"
    assert json.loads(current.read_text())["version"] == 1

    invalid_parameters = [{"plan": "nobody"}, {"workers": 0}, {"workers": "two"}, {"overrides": ["train.seed"]}]
    invalid_parameters += [
        {"overrides": [f"{key}=1"]} for key in ("trian.seed", "train.sead", "train.seed.x", "demo.splits.a.b")
    ]
    values = ["train.epochs=0", "train.seed=x", "train.bf16=perhaps", "index.target_recall=1.5", "train.schedule=cosin"]
    invalid_parameters += [{"overrides": ["train.seed=1", value]} for value in values]
    extractions_before = server.runs("extract-flickr")
    deployment = server.get("/deployments/name/extract-flickr/extract-flickr")["id"]
    for parameters in invalid_parameters:
        with pytest.raises(urllib.error.HTTPError, match="409") as caught:
            server.post(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
        if "train.epochs=0" in parameters.get("overrides", ()):
            assert "KEY=VALUE with a whole number at least 1" in json.load(caught.value)["detail"]
    assert server.prefect("deployment", "run", "extract-flickr/extract-flickr", "-p", "threads=3").returncode != 0
    with temporary_settings({PREFECT_API_URL: server.url}):
        for plan_name, settings, arguments, reason in (
            ("demo", (), ("workers=0",), "no run was created"),
            ("demo", (), ("threads=3",), r"has no parameter threads\. Its parameters are"),
            ("demo", ("trian.seed=1",), (), "did you mean"),
        ):
            with pytest.raises(ValueError, match=reason):
                follow_run("extract-flickr", plan_name, settings, arguments, print)
        with pytest.raises(
            ValueError, match=r"no deployment 'nobody/nobody'\. The server has build-index, extract-flickr"
        ):
            follow_run("nobody", "demo", (), (), print)
    assert server.new_runs("extract-flickr", extractions_before) == []
    assert server.outside_connections() == "", "no other machine is contacted"
    assert server.listening_addresses() == {"0100007F"}, "the server listens on loopback only"
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ui-settings") as response:
        assert json.load(response)["default_ui"] == "v1", "the pages of V2 load a script from an analytics host"


# A caption changes; the first run has a limit that no version can keep. A stage warns, and logs from a plain thread.
UPDATE_CODE = """
import json, logging, sys, threading, warnings
from pathlib import Path
from flows import flows
from pipeline.plans.load import load_plan
from pipeline.runs import runner
from pipeline.workspace import Workspace

def noisy(*inputs, real=runner.publish_index_update, **settings):
    warnings.warn("the loss is at two margins", stacklevel=1)
    thread = threading.Thread(target=lambda: logging.getLogger("index.thread").info("from a plain thread"))
    thread.start()
    thread.join()
    return real(*inputs, **settings)

runner.publish_index_update = noisy
annotations = load_plan(sys.argv[1]).workspace / "dataset" / "dataset_demo.json"
content = json.loads(annotations.read_text())
content["images"][0]["sentences"][0]["raw"] = "a purple elephant is playing chess in the snow"
annotations.write_text(json.dumps(content))
try:
    flows.reindex(sys.argv[1], ["train.epochs=2", "gate.max_latency_ms=0.000001"])
except ValueError as error:
    print(error)
print((Path(sys.argv[2]) / "CURRENT").read_text())
(pinned,) = Workspace(load_plan(sys.argv[1]).workspace).list_models()
print(flows.reindex(sys.argv[1], ["train.epochs=99"], pinned))
content["images"][0]["sentences"][1]["raw"] = "a green whale is reading the news"
annotations.write_text(json.dumps(content))
print(flows.reindex(sys.argv[1], version=1))
print(flows.pipeline(sys.argv[1], ["train.epochs=2"], start_at="index"))
"""


def test_failed_gate_keeps_the_served_version_and_passed_gate_publishes_a_delta(server, plan):
    root = load_plan(str(plan)).workspace / "index"
    before = json.loads((root / "CURRENT").read_text())
    list_stored = lambda: {path for path in (server.home / "storage").rglob("*") if path.is_file()}  # noqa: E731
    stored_before = list_stored()  # errors of flows of other tests
    process = server.python(UPDATE_CODE, str(plan), str(root))
    assert process.returncode == 0, process.stderr
    rejection, *current, updated, from_first, from_pipeline = process.stdout.splitlines()
    assert "Version 2 did not pass its gate: " in rejection
    assert json.loads("".join(current)) == before
    _, second_run, run = server.runs("reindex")[:3]
    assert run["state"]["type"] == "FAILED"
    assert "image latency" in run["state"]["message"]
    artifacts = server.artifacts(run)
    assert f"Still served: `v{before['version']:08d}`" in artifacts["rejected"]["data"]
    rows = {row["check"]: row for row in json.loads(artifacts["gate"]["data"])}
    assert (rows["image latency"]["passed"], rows["image recall"]["passed"]) == (False, True)
    assert len({tuple(row) for row in rows.values()}) == 1, "one set of columns"
    lines = wait_until(lambda: [x for x in server.logs(run) if x["name"] == "index.thread"], 30, "no line")
    assert [(line["level"], line["message"]) for line in lines] == [(20, "from a plain thread")]
    assert any(x["level"] == 30 and "two margins" in x["message"] for x in server.logs(run))
    messages = [json.loads(path.read_text())["message"] for path in list_stored() - stored_before]
    assert any("image latency" in message for message in messages), (
        "Prefect stores the message of the error, not a pickle of it"
    )

    assert second_run["state"]["type"] == "COMPLETED"
    assert updated == str(manifest_path(root, 3))
    roles = {
        k: [shard.role for shard in collection.shards]
        for k, collection in read_version_manifest(root, 3).collections.items()
    }
    assert roles == {"image": ["base", "base"], "caption": ["base", "base", "delta"]}
    names = [sorted(task["name"] for task in server.tasks(flow_run)) for flow_run in (run, second_run)]
    assert names == [["embedding demo 000", "token-features demo 000"], []], "one caption, extracted and embedded once"
    artifacts = server.artifacts(second_run)
    assert set(artifacts) >= {"index", "gate", "published", "gallery", "lineage"}
    table = {row["kind"]: (row["delta shards"], row["deleted rows"]) for row in json.loads(artifacts["index"]["data"])}
    assert table == {"image": (0, 0), "caption": (1, 1)}

    # Both captions are new to version 1: version 4 has one delta shard, and not that of version 3.
    assert (from_first, from_pipeline) == tuple(str(manifest_path(root, version)) for version in (4, 5))
    first, fourth = (read_version_manifest(root, version).collections["caption"] for version in (1, 4))
    assert [shard.role for shard in fourth.shards] == ["base", "base", "delta"]
    assert fourth.shards[:2] == first.shards
    assert (fourth.shards[2].rows, fourth.counts.deleted) == (2, 2)
    # With `start_at="index"` only that flow runs; it trains a model first, because the training set has changed.
    parent, child = server.runs("pipeline")[0], server.runs("build-index")[0]
    assert server.get(f"/task_runs/{child['parent_task_run_id']}")["flow_run_id"] == parent["id"]
    children = {"flow_runs": {"parent_flow_run_id": {"any_": [parent["id"]]}}}
    assert [child_run["id"] for child_run in server.post("/flow_runs/filter", children)] == [child["id"]]


EVENT_CODE = """
import sys
from prefect.events import emit_event
model, told = "tern-0123456789ab", {"overrides": ["train.seed=1", "dataset.name=a 'b' <c>"]}
resource = {"prefect.resource.id": f"tern.model.{model}", "plan": sys.argv[2], "model": model}
emit_event(sys.argv[1], resource, payload=told)
"""


def test_new_model_event_starts_an_index_build_and_missing_plan_fails_it_with_the_reason(server, tmp_path):
    from flows.runs import MODEL_CREATED

    (trigger,) = [a for a in server.post("/automations/filter", {}) if a["name"] == "build-index-after-training"]
    assert not trigger["enabled"], "disabled until a user enables it"
    server.patch(f"/automations/{trigger['id']}", {"enabled": True})
    runs_before, missing_plan = server.runs("build-index"), str(tmp_path / "gone.toml")
    assert server.python(EVENT_CODE, MODEL_CREATED, missing_plan).returncode == 0
    (run,) = wait_until(lambda: server.new_runs("build-index", runs_before), 60, "no run")
    server.patch(f"/automations/{trigger['id']}", {"enabled": False})
    settings = ["train.seed=1", "dataset.name=a 'b' <c>"]
    model = "tern-0123456789ab"
    assert run["parameters"] == {
        "plan": missing_plan,
        "model": model,
        "overrides": settings,
        "keep_rollback": True,
    }
    state = lambda: server.get(f"/flow_runs/{run['id']}")["state"]  # noqa: E731
    wait_until(lambda: state()["type"] == "FAILED", 150, "not failed")
    assert "does not exist" in state()["message"]
    (report,) = wait_until(
        lambda: [facts for facts in server.failure_reports() if facts["id"] == run["id"]],
        30,
        "the failure command did not run",
    )
    assert (report["flow"], report["state"]) == ("build-index", "Failed")
    assert "does not exist" in report["message"]


@pytest.mark.parametrize(
    ("nightly", "cron", "reason"),
    [
        (None, "0 4 * * *", "Pass --nightly PLAN too"),
        ("nobody", None, "Plan .nobody. does not exist"),
        ("demo", "nonsense", "cron line 'nonsense' is not valid: it has one field: write five"),
        ("demo", "0 24 * * *", "cron line '0 24 .* is not valid: .*nvalid.*Write five fields"),
        ("demo", "0 3 30 2 *", "cron line '0 3 30 2 .*: there is no such day"),
        ("demo", "0 0 3 * * *", "cron line '0 0 3 .* is not valid: it has six fields: write five"),
        ("demo", "", "cron line '' is not valid: it has no fields: write five"),
        (None, "", "Pass --nightly PLAN too"),
        ("", None, "Plan '' does not exist"),
    ],
)
def test_up_rejects_an_invalid_schedule_before_it_starts_a_process(nightly, cron, reason, monkeypatch):
    from flows.server import up as server
    from flows.server.up import run_server_and_worker

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(server, "apply_environment", lambda port: None)  # this process has its own settings
    fake_subprocess = SimpleNamespace(Popen=lambda *arguments, **options: pytest.fail("a process was started"))
    monkeypatch.setattr(server, "subprocess", fake_subprocess)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        run_server_and_worker(free_port(), nightly, cron)


def test_up_names_a_port_that_is_in_use(monkeypatch):
    from flows.server.up import run_server_and_worker

    monkeypatch.chdir(ROOT)
    with socket.socket() as other_socket:
        other_socket.bind(("127.0.0.1", 0))
        other_socket.listen()
        with pytest.raises(ValueError, match="is in use"):
            run_server_and_worker(other_socket.getsockname()[1])


# Replaces `prefect deploy --all`, which takes seconds, by its effect on an existing schedule and trigger.
DEPLOY_CODE = """
import os
from types import SimpleNamespace
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from flows.server import deploy

with get_client(sync_client=True) as client:
    (trigger,) = client.read_automations_by_name("build-index-after-training")
    client.resume_automation(trigger.id)

    def redeploy(*words, **settings):
        found = client.read_deployment_by_name("reindex/reindex")
        off = {"active": False, "schedule": CronSchedule(cron="0 3 * * *", timezone="UTC"), "parameters": {}}
        client.update_deployment_schedule(found.id, found.schedules[0].id, **off)
        client.pause_automation(trigger.id)
        print("off")

    deploy.subprocess = SimpleNamespace(run=redeploy)
    print(*deploy.deploy_all(dict(os.environ)), sep="\\n")
"""


def test_nightly_schedule_and_automation_stay_enabled_after_another_deployment(server, plan):
    code = "import sys; from flows.server.schedule import enable_nightly; enable_nightly(sys.argv[1], '30 2 * * *')"
    process = server.python(code, str(plan))
    assert process.returncode == 0, process.stdout + process.stderr
    schedule = server.get("/deployments/name/reindex/reindex")["schedules"][0]
    assert (schedule["active"], schedule["schedule"]["cron"]) == (True, "30 2 * * *")
    assert schedule["parameters"] == {"plan": str(plan)}
    process = server.python(DEPLOY_CODE)
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.splitlines() == [
        "off",
        "the schedule nightly of reindex, 30 2 * * *",
        "the automation build-index-after-training",
    ]
    schedule_after = server.get("/deployments/name/reindex/reindex")["schedules"][0]
    assert {key: schedule_after[key] for key in ("active", "schedule", "parameters")} == {
        key: schedule[key] for key in ("active", "schedule", "parameters")
    }
    (trigger,) = [a for a in server.post("/automations/filter", {}) if a["name"] == "build-index-after-training"]
    assert trigger["enabled"]
    server.patch(f"/automations/{trigger['id']}", {"enabled": False})
    scheduled_runs = wait_until(
        lambda: [r for r in server.runs("reindex") if r["auto_scheduled"]], 90, "no run was scheduled"
    )
    assert scheduled_runs[0]["parameters"]["plan"] == str(plan)
