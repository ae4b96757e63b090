"""`tern lineage` against the manifests, read here without the code under test."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from data.io.digests import digest
from pipeline.cli.app import build_app
from pipeline.lineage import read_lineage


def read_edges(workspace: Path) -> set[tuple[str, str]]:
    """Read the edges (input, output) of the published version from the JSON files."""
    read = lambda path: json.loads(path.read_text())  # noqa: E731
    version = workspace / "index" / "versions" / f"v{read(workspace / 'index' / 'CURRENT')['version']:08d}.json"
    model = read(version)["provenance"]["model"]
    card = read(workspace / "models" / model / "model.json")
    stores = {digest(read(path)["recipe"]): path.parent.name for path in workspace.glob("stores/*/manifest.json")}
    vectors = [path.parent.name for path in workspace.glob("vectors/*/manifest.json")]
    edges = {(stores[card[key]], model) for key in ("region_recipe", "token_recipe")}
    return edges | {(model, name) for name in vectors} | {(name, version.stem) for name in vectors}


def test_lineage_of_the_published_version_matches_the_manifests(finished_pipeline):
    workspace = finished_pipeline.plan.workspace
    edges = read_edges(workspace)
    lineage = read_lineage(workspace)
    assert {(name, node.name) for node in lineage.nodes for name in node.inputs} == edges
    assert [node.kind for node in lineage.nodes] == ["store"] * 2 + ["model"] + ["vectors"] * 4 + ["index"]
    chart = lineage.to_mermaid()
    names = dict(re.findall(r'  (n\d+)\["\w+ ([^<]+)<', chart))
    arrows = {(names[a], names[b]) for a, b in re.findall(r"  (n\d+) --> (n\d+)\n", chart)}
    assert arrows == edges
    drawing = ElementTree.fromstring(lineage.to_svg())
    texts = {element.text for element in drawing.iter() if element.tag.endswith("text")}
    assert {f"{node.kind} {node.name}" for node in lineage.nodes} <= texts
    assert sum(element.tag.endswith("path") for element in drawing.iter()) == len(arrows)


def test_command_prints_the_lineage_as_text_and_as_chart(finished_pipeline):
    workspace = finished_pipeline.plan.workspace
    command = ["lineage", "--set", f"workspace={workspace}"]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0
    assert result.output == read_lineage(workspace).to_text()
    assert "v00000001" in result.output
    assert "published" in result.output
    assert CliRunner().invoke(build_app(), [*command, "--mermaid"]).output.startswith("graph LR\n")
    assert set(read_lineage(workspace, include_unused=True).nodes) >= set(read_lineage(workspace).nodes)


def test_empty_workspace_raises_with_the_command_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="tern index"):
        read_lineage(tmp_path)
    with pytest.raises(FileNotFoundError, match="tern pipeline"):
        read_lineage(tmp_path, include_unused=True)
