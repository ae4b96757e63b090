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
from tests.helpers.flow_server import await_, free_port
from tests.helpers.forks import ROOT
from tests.helpers.small_plan import small_plan

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow
NAMES = ["build-index", "extract-flickr", "pipeline", "reindex", "train-tern"]
KEYS = {"name", "entrypoint", "description", "tags", "parameters", "work_pool", "concurrency_limit", "schedules"}


KEYS |= {"triggers"}


def test_prefect_yaml_has_no_key_that_prefect_would_drop_silently():
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert set(content) == {"name", "pull", "deployments"}
    assert sorted(entry["name"] for entry in content["deployments"]) == NAMES
    for entry in content["deployments"]:
        assert set(entry) <= KEYS, entry["name"]
        module, _, function = entry["entrypoint"].rpartition(".")
        found = getattr(__import__(module, fromlist=[function]), function)
        assert found.name == entry["name"], "flow and deployment share a name"
        assert set(entry["parameters"]) <= set(found.parameters.properties)
        assert set(entry["work_pool"]) == {"name"}
        assert set(entry["concurrency_limit"]) == {"limit", "collision_strategy"}
        for schedule in entry.get("schedules", []):
            assert set(schedule) <= {"cron", "timezone", "slug", "active", "parameters"}
            assert schedule["slug"], "by which one that is on is found when all is deployed again"
        for trigger in entry.get("triggers", []):
            assert set(trigger) <= {"name", "description", "enabled", "match", "expect", "parameters"}


def test_prefect_toml_and_the_quiet_settings_are_settings_that_prefect_has():
    from prefect.settings import Settings

    from flows.server.environment import PREFECT_SETTINGS

    def known(part, keys):
        assert set(keys) <= set(part.model_fields), part
        part.model_validate(keys)
        for name, below in keys.items():
            if isinstance(below, dict):
                known(part.model_fields[name].annotation, below)

    content = tomllib.loads((ROOT / "prefect.toml").read_text())
    known(Settings, content)
    assert content["api"]["url"].startswith("http://127.0.0.1:"), "loopback alone"
    assert content["server"]["ui"] == {"v2_enabled": False}
    assert set(PREFECT_SETTINGS) - {"DO_NOT_TRACK", "RAY_USAGE_STATS_ENABLED"} <= set(
        Settings().to_environment_variables()
    )


def test_every_parameter_has_a_description_and_bounds_that_the_form_shows():
    from flows import flows

    for flow in (flows.extract_flickr, flows.train_tern, flows.build_index, flows.reindex, flows.pipeline):
        for name, shown in flow.parameters.properties.items():
            assert shown.get("description"), f"{flow.name}: {name}"
    assert "flickr30k" in flows.reindex.parameters.properties["plan"]["pattern"]
    assert flows.extract_flickr.parameters.properties["workers"]["anyOf"][0]["maximum"] == 256


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    return small_plan(tmp_path_factory.mktemp("plan"), workers=2)


def edges_of(tasks: list[dict]) -> list[dict]:
    return [i for task in tasks for inputs in task["task_inputs"].values() for i in inputs if "id" in i]


def test_both_forms_of_the_users_command_run_and_make_the_stores_of_the_command_line(server, finished_pipeline, plan):
    """At the same time, so that one run waits for the other."""
    assert sorted(found["name"] for found in server.post("/deployments/filter", {})) == NAMES
    # The first form is the plugin's, the second stock; runs work in the folder that was deployed.
    forms = (("extract-flickr", plan), ("extract-flickr/extract-flickr", os.path.relpath(plan, ROOT)))
    words = [["deployment", "run", name, "--param", f"plan={where}", "--watch"] for name, where in forms]
    for begun in [server.begun("prefect", *each) for each in words]:
        said, _ = begun.communicate(timeout=240)
        assert begun.returncode == 0, said
    first, again = sorted(server.runs("extract-flickr")[:2], key=lambda run: run["start_time"])  # others ran before
    states = [server.get(f"/flow_run_states/?flow_run_id={run['id']}") for run in (first, again)]
    assert any(s["name"] == "AwaitingConcurrencySlot" for each in states for s in each), "one waits for the other"
    assert first["end_time"] < again["start_time"]
    assert (first["state"]["type"], first["name"][:20]) == ("COMPLETED", "extract-flickr demo ")
    names = sorted(task["name"] for task in server.tasks(first) if task["name"].startswith(("region", "token")))
    stages = ("region-features", "token-features")
    assert names == [f"{stage} demo {number:03d}" for stage in stages for number in range(4)]
    assert {task["state"]["type"] for task in server.tasks(first)} == {"COMPLETED"}
    assert edges_of(server.tasks(first)) == [], "shards do not depend on each other"
    assert server.tasks(again) == [], "finished work is not repeated"
    workspace = load_plan(str(plan)).workspace
    for ours in (workspace / "stores").iterdir():
        theirs = finished_pipeline.plan.workspace / "stores" / ours.name
        assert Store(ours).ids == Store(theirs).ids, "flow and command line make the same stores"
    ended = server.prefect("deployment", "run", "nobody")
    assert ended.returncode == 1
    assert "not found" in ended.stdout + ended.stderr


def test_tern_run_follows_a_pipeline_to_its_end_and_the_run_can_be_looked_at(server, plan):
    from flows.runs import MODEL_CREATED

    ended = server.tern("run", "pipeline", "--plan", str(plan), "--set", "train.epochs=2", "--port", str(server.port))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "epoch 2 of 2" in ended.stdout, "the terminal shows the progress"
    assert "state   Completed" in ended.stdout
    extract, train, index = (server.runs(name)[0] for name in ("extract-flickr", "train-tern", "build-index"))
    for run in (extract, train, index):
        assert set(server.artifacts(run)) >= {"stores", "invalid-records"}
    made = server.artifacts(train)
    assert set(made) >= {"metrics", "epochs", "curves", "training-progress"}
    assert made["training-progress"]["data"] == 100
    rows = json.loads(made["epochs"]["data"])
    assert [row["epoch"] for row in rows] == [1, 2]
    assert list(rows[0])[:3] == ["epoch", "loss", "t2i_r1"], "what one looks for is seen without scrolling"
    assert all(len(str(value)) <= 9 for value in rows[0].values())
    epochs = [t for t in server.tasks(train) if t["name"].startswith("epoch")]
    assert sorted(t["name"] for t in epochs) == ["epoch demo 001", "epoch demo 002"]
    assert edges_of(epochs) == [], "a row of one epoch is no input of the next"
    asked = {"filter": {"event": {"name": [MODEL_CREATED]}}}
    told = lambda: [e for e in server.post("/events/filter", asked)["events"] if e["resource"]["plan"] == str(plan)]  # noqa: E731
    assert told() == [], "a pipeline builds the index itself"
    lines = [(line["level"], line["message"]) for line in server.logs(train)]
    assert any(level == 20 and "epoch 2 of 2" in message for level, message in lines), lines
    shown = server.artifacts(index)
    assert set(shown) >= {"index", "published", "gallery", "lineage"}
    assert "data:image/jpeg;base64," in shown["gallery"]["data"]
    assert "v00000001" in shown["lineage"]["data"]
    assert "```mermaid\ngraph LR\n" in shown["lineage"]["data"]
    assert (load_plan(str(plan)).workspace / "report.html").is_file()


def test_a_night_without_news_says_so_and_a_wrong_value_makes_no_run(server, plan):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server.follow import follow_run

    told, known = ("--set", "train.epochs=2"), server.runs("reindex")
    with server.begun(
        "pipeline.cli", "run", "reindex", "--plan", str(plan), *told, "--port", str(server.port)
    ) as night:
        begun = lambda: [r for r in server.since("reindex", known) if r["state_type"] == "PENDING"]  # noqa: E731
        (run,) = await_(begun, 60, "no worker took the run")
        asked = f"/deployments/{run['deployment_id']}/create_flow_run"
        second = server.post(asked, {"parameters": run["parameters"]})
        state = lambda: server.get(f"/flow_runs/{second['id']}")["state"]["type"]  # noqa: E731
        await_(lambda: state() in ("COMPLETED", "CANCELLED"), 60, "the second run did not end")
        assert state() == "CANCELLED", "a run that would overlap is refused"
        said, _ = night.communicate(timeout=120)
    assert night.returncode == 0, said
    run = server.get(f"/flow_runs/{run['id']}")
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "NothingToDo")
    assert "nothing to do: v00000001 holds all that demo has" in run["state"]["message"]
    assert "NothingToDo" in said
    current = load_plan(str(plan)).workspace / "index" / "CURRENT"
    assert json.loads(current.read_text())["version"] == 1

    wrong = [{"plan": "nobody"}, {"workers": 0}, {"workers": "two"}, {"overrides": ["train.seed"]}]
    wrong += [{"overrides": [f"{key}=1"]} for key in ("trian.seed", "train.sead", "train.seed.x", "demo.splits.a.b")]
    values = ["train.epochs=0", "train.seed=x", "train.bf16=perhaps", "index.target_recall=1.5", "train.schedule=cosin"]
    wrong += [{"overrides": ["train.seed=1", value]} for value in values]
    before = server.runs("extract-flickr")
    asked = server.get("/deployments/name/extract-flickr/extract-flickr")["id"]
    for parameters in wrong:
        with pytest.raises(urllib.error.HTTPError, match="409") as refused:
            server.post(f"/deployments/{asked}/create_flow_run", {"parameters": parameters})
        if "train.epochs=0" in parameters.get("overrides", ()):
            assert "KEY=VALUE with a whole number at least 1" in json.load(refused.value)["detail"]
    assert server.prefect("deployment", "run", "extract-flickr/extract-flickr", "-p", "threads=3").returncode != 0
    with temporary_settings({PREFECT_API_URL: server.url}):
        for plan_name, settings, given, reason in (
            ("demo", (), ("workers=0",), "no run was created"),
            ("demo", (), ("threads=3",), r"has no parameter threads\. Its parameters are"),
            ("demo", ("trian.seed=1",), (), "did you mean"),
        ):
            with pytest.raises(ValueError, match=reason):
                follow_run("extract-flickr", plan_name, settings, given, print)
        with pytest.raises(
            ValueError, match=r"no deployment 'nobody/nobody'\. The server has build-index, extract-flickr"
        ):
            follow_run("nobody", "demo", (), (), print)
    assert server.since("extract-flickr", before) == []
    assert server.outside() == "", "nothing but this machine is called"
    assert server.listens_at() == {"0100007F"}, "loopback alone"
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ui-settings") as answer:
        assert json.load(answer)["default_ui"] == "v1", "the pages of V2 load a script from an analytics host"


# A caption changes; the gate first asks for what nothing can give. A stage warns, and speaks from a plain thread.
NEWS = """
import json, logging, sys, threading, warnings
from pathlib import Path
from flows import flows
from pipeline.plans.load import load_plan
from pipeline.runs import runner
from pipeline.workspace import Workspace

def noisy(*inputs, real=runner.publish_index_update, **settings):
    warnings.warn("the loss stands at two margins", stacklevel=1)
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


def test_a_failed_gate_leaves_what_is_served_with_its_report_and_a_passed_one_publishes_a_delta(server, plan):
    root = load_plan(str(plan)).workspace / "index"
    before = json.loads((root / "CURRENT").read_text())
    storage = lambda: {path for path in (server.home / "storage").rglob("*") if path.is_file()}  # noqa: E731
    others = storage()  # errors of flows that other tests made of their own
    ended = server.python(NEWS, str(plan), str(root))
    assert ended.returncode == 0, ended.stderr
    refused, *current, made, from_first, whole = ended.stdout.splitlines()
    assert "Version 2 did not pass its gate: " in refused
    assert json.loads("".join(current)) == before
    _, again, run = server.runs("reindex")[:3]
    assert run["state"]["type"] == "FAILED"
    assert "image latency" in run["state"]["message"]
    shown = server.artifacts(run)
    assert f"Still served: `v{before['version']:08d}`" in shown["rejected"]["data"]
    rows = {row["check"]: row for row in json.loads(shown["gate"]["data"])}
    assert (rows["image latency"]["passed"], rows["image recall"]["passed"]) == (False, True)
    assert len({tuple(row) for row in rows.values()}) == 1, "one set of columns"
    lines = await_(lambda: [x for x in server.logs(run) if x["name"] == "index.thread"], 30, "no line")
    assert [(line["level"], line["message"]) for line in lines] == [(20, "from a plain thread")]
    assert any(x["level"] == 30 and "two margins" in x["message"] for x in server.logs(run))
    told = [json.loads(path.read_text())["message"] for path in storage() - others]
    assert any("image latency" in message for message in told), "Prefect keeps the error; no pickle of it"

    assert again["state"]["type"] == "COMPLETED"
    assert made == str(manifest_path(root, 3))
    roles = {
        k: [shard.role for shard in about.shards] for k, about in read_version_manifest(root, 3).collections.items()
    }
    assert roles == {"image": ["base", "base"], "caption": ["base", "base", "delta"]}
    names = [sorted(task["name"] for task in server.tasks(some)) for some in (run, again)]
    assert names == [["embedding demo 000", "token-features demo 000"], []], "one caption, extracted and embedded once"
    shown = server.artifacts(again)
    assert set(shown) >= {"index", "gate", "published", "gallery", "lineage"}
    table = {row["kind"]: (row["delta shards"], row["deleted rows"]) for row in json.loads(shown["index"]["data"])}
    assert table == {"image": (0, 0), "caption": (1, 1)}

    # From version 1 on, both captions are new to it: one delta, and none of version 3's.
    assert (from_first, whole) == tuple(str(manifest_path(root, version)) for version in (4, 5))
    first, fourth = (read_version_manifest(root, version).collections["caption"] for version in (1, 4))
    assert [shard.role for shard in fourth.shards] == ["base", "base", "delta"]
    assert fourth.shards[:2] == first.shards
    assert (fourth.shards[2].rows, fourth.counts.deleted) == (2, 2)
    # `start_at="index"` is that run alone; the new training set makes it train a model first.
    parent, child = server.runs("pipeline")[0], server.runs("build-index")[0]
    assert server.get(f"/task_runs/{child['parent_task_run_id']}")["flow_run_id"] == parent["id"]
    children = {"flow_runs": {"parent_flow_run_id": {"any_": [parent["id"]]}}}
    assert [found["id"] for found in server.post("/flow_runs/filter", children)] == [child["id"]]


TRAINED = """
import sys
from prefect.events import emit_event
model, told = "tern-0123456789ab", {"overrides": ["train.seed=1", "dataset.name=a 'b' <c>"]}
resource = {"prefect.resource.id": f"tern.model.{model}", "plan": sys.argv[2], "model": model}
emit_event(sys.argv[1], resource, payload=told)
"""


def test_a_new_checkpoint_starts_an_index_and_a_plan_that_is_gone_fails_the_run_with_the_reason(server, tmp_path):
    from flows.runs import MODEL_CREATED

    (trigger,) = [a for a in server.post("/automations/filter", {}) if a["name"] == "build-index-after-training"]
    assert not trigger["enabled"], "until someone wants it"
    server.patch(f"/automations/{trigger['id']}", {"enabled": True})
    before, gone = server.runs("build-index"), str(tmp_path / "gone.toml")
    assert server.python(TRAINED, MODEL_CREATED, gone).returncode == 0
    (found,) = await_(lambda: server.since("build-index", before), 60, "no run")
    server.patch(f"/automations/{trigger['id']}", {"enabled": False})
    settings = ["train.seed=1", "dataset.name=a 'b' <c>"]
    assert found["parameters"] == {"plan": gone, "model": "tern-0123456789ab", "overrides": settings}
    state = lambda: server.get(f"/flow_runs/{found['id']}")["state"]  # noqa: E731
    await_(lambda: state()["type"] == "FAILED", 150, "not failed")
    assert "does not exist" in state()["message"]
    (told,) = await_(
        lambda: [facts for facts in server.told() if facts["id"] == found["id"]], 30, "the failure command did not run"
    )
    assert (told["flow"], told["state"]) == ("build-index", "Failed")
    assert "does not exist" in told["message"]


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
def test_up_refuses_a_wrong_night_before_it_starts_anything(nightly, cron, reason, monkeypatch):
    from flows.server import up as server
    from flows.server.up import run_server_and_worker

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(server, "apply_environment", lambda port: None)  # this process has its settings
    begun = SimpleNamespace(Popen=lambda *told, **more: pytest.fail("something was started"))
    monkeypatch.setattr(server, "subprocess", begun)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        run_server_and_worker(free_port(), nightly, cron)


def test_up_says_so_when_its_port_is_taken(monkeypatch):
    from flows.server.up import run_server_and_worker

    monkeypatch.chdir(ROOT)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match="is in use"):
            run_server_and_worker(taken.getsockname()[1])


# `prefect deploy --all` takes seconds: what it does to a schedule and a trigger that are there stands in for it.
DEPLOYED = """
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


def test_nightly_switches_the_schedule_on_and_what_is_on_stays_on_when_all_is_deployed_again(server, plan):
    code = "import sys; from flows.server.schedule import enable_nightly; enable_nightly(sys.argv[1], '30 2 * * *')"
    ended = server.python(code, str(plan))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    schedule = server.get("/deployments/name/reindex/reindex")["schedules"][0]
    assert (schedule["active"], schedule["schedule"]["cron"]) == (True, "30 2 * * *")
    assert schedule["parameters"] == {"plan": str(plan)}
    ended = server.python(DEPLOYED)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines() == [
        "off",
        "the schedule nightly of reindex, 30 2 * * *",
        "the automation build-index-after-training",
    ]
    again = server.get("/deployments/name/reindex/reindex")["schedules"][0]
    assert {key: again[key] for key in ("active", "schedule", "parameters")} == {
        key: schedule[key] for key in ("active", "schedule", "parameters")
    }
    (trigger,) = [a for a in server.post("/automations/filter", {}) if a["name"] == "build-index-after-training"]
    assert trigger["enabled"]
    server.patch(f"/automations/{trigger['id']}", {"enabled": False})
    planned = await_(lambda: [r for r in server.runs("reindex") if r["auto_scheduled"]], 90, "no run was scheduled")
    assert planned[0]["parameters"]["plan"] == str(plan)
