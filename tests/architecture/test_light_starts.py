"""Commands that only read manifests or print help start without heavy libraries.

Commands that may import the same libraries run in one process: none of them may import another library.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from pipeline.cli.app import build_app
from tests.helpers.light_starts import make_workspace, run_code, run_commands
from tests.helpers.packages import write_small_package

pytestmark = pytest.mark.slow

HELP = "numpy torch torchvision faiss h5py prefect transformers PIL matplotlib jinja2 pyarrow"
MANIFESTS = "numpy torch torchvision faiss h5py transformers PIL matplotlib pyarrow prefect"
STORES = "torch torchvision faiss transformers matplotlib prefect"
INDEX_COMMANDS = (
    ["info"],
    ["tags", "--add", "prod", "--version", "1"],
    ["gc", "--dry-run"],
    ["publish", "1"],
    ["rollback", "1"],
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("light"))


def walk(command, words: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Yield the words of a group and of all commands below it."""
    yield [*words]
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*words, name))


def test_help_of_every_command_starts_light():
    commands = [[*words, "--help"] for words in walk(get_command(build_app()))]
    assert len(commands) > 30
    start = run_commands(*commands)
    assert start.output.count("Usage: tern") == len(commands)
    assert start.imported(HELP) == []


def test_command_without_a_plan_starts_without_pydantic():
    start = run_commands(["--help"], ["--version"], ["plans"])
    assert all(start.outputs)
    assert start.imported(f"{HELP} pydantic") == []


def test_index_commands_start_light(workspace):
    start = run_commands(*(["index", *words, "--index", workspace / "index"] for words in INDEX_COMMANDS))
    assert [output for output in start.outputs if "version" not in output] == []
    assert start.imported(f"{MANIFESTS} flows pipeline.cli.run pipeline.cli.search") == []


def test_commands_on_manifests_start_light(workspace, tmp_path):
    package = write_small_package(tmp_path / "package")
    commands = [
        ["lineage", *options, "--set", f"workspace={workspace}"] for options in (["--all"], ["--all", "--mermaid"])
    ]
    commands += [["model", command, package.folder] for command in ("info", "verify")]
    start = run_commands(*commands)
    for words, output in zip(commands, start.outputs, strict=True):
        assert {"lineage": "v00000002", "model": package.digest[:12]}[words[0]] in output, words
    assert start.imported(MANIFESTS) == []


def test_store_commands_start_light(workspace):
    store = next((workspace / "stores").glob("regions-*"))
    start = run_commands(*(["store", command, store] for command in ("info", "verify", "compact")))
    assert all(start.outputs)
    assert start.imported(STORES) == []


def test_plan_with_a_model_package_loads_light(tmp_path):
    package = write_small_package(tmp_path / "package")
    plan = tmp_path / "plan.toml"
    plan.write_text(f'workspace = "w"\nmodel = "{package.folder}"\n[demo]\n')
    start = run_code(f"from pipeline.plans import load_plan; print(load_plan({str(plan)!r}).regions.max_regions)\n")
    assert start.output == "12"
    assert start.imported(f"{MANIFESTS} huggingface_hub") == []


def test_store_export_and_import_start_light(workspace, tmp_path):
    store, table = next((workspace / "stores").glob("regions-*")), tmp_path / "obj36.tsv"
    start = run_commands(["store", "export", store, "--format", "lxmert-tsv", "--output", table])
    assert "3 images" in start.output
    assert start.imported(STORES) == []
    start = run_commands(["store", "import", table, "--output", tmp_path / "stores"])
    assert "3 imported" in start.output
    assert start.imported(STORES) == []


def test_plan_loads_without_the_libraries_of_its_stages():
    assert (
        run_code("from pipeline.plans import load_plan; load_plan('demo')\n").imported("numpy torch faiss h5py PIL")
        == []
    )


def test_flows_are_imported_without_the_libraries_of_their_stages():
    pytest.importorskip("prefect")
    assert run_code("import flows.flows\n").imported("torch faiss numpy h5py transformers matplotlib") == []


def test_walk_finds_commands_of_groups():
    app = typer.Typer()
    app.command()(lambda: None)
    group = typer.Typer()
    group.command("inner")(lambda: None)
    app.add_typer(group, name="group")
    assert ["group", "inner"] in list(walk(get_command(app)))


def test_search_service_starts_without_torch():
    pytest.importorskip("fastapi")
    start = run_code("import pipeline.service.server")
    assert start.imported("torch torchvision transformers timm matplotlib prefect") == []


def test_client_of_the_search_service_starts_light():
    start = run_code("from pipeline.service.client import SearchClient; SearchClient()\n")
    assert start.imported(f"{HELP} fastapi uvicorn httpx onnxruntime pipeline.search") == []
