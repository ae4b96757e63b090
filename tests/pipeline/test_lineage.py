"""Where an index came from: what `tern lineage` says is what the manifests say."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from data.io.digests import digest
from pipeline.cli.app import build_app
from pipeline.lineage import read_lineage


def by_hand(workspace: Path) -> set[tuple[str, str]]:
    """(from, to) of every step, read from the raw files."""
    read = lambda path: json.loads(path.read_text())  # noqa: E731
    version = workspace / "index" / "versions" / f"v{read(workspace / 'index' / 'CURRENT')['version']:08d}.json"
    model = read(version)["provenance"]["model"]
    card = read(workspace / "models" / model / "model.json")
    stores = {digest(read(path)["recipe"]): path.parent.name for path in workspace.glob("stores/*/manifest.json")}
    vectors = [path.parent.name for path in workspace.glob("vectors/*/manifest.json")]
    steps = {(stores[card[kind]], model) for kind in ("region_recipe", "token_recipe")}
    return steps | {(model, name) for name in vectors} | {(name, version.stem) for name in vectors}


def test_the_lineage_of_what_is_served_is_that_of_the_manifests(finished_pipeline):
    found = read_lineage(finished_pipeline.plan.workspace)
    assert {(need, node.name) for node in found.nodes for need in node.inputs} == by_hand(
        finished_pipeline.plan.workspace
    )
    assert [node.kind for node in found.nodes] == ["store", "store", "model", "vectors", "vectors", "index"]
    drawn = found.to_mermaid()
    names = dict(re.findall(r'  (n\d+)\["\w+ ([^<]+)<', drawn))
    arrows = {(names[a], names[b]) for a, b in re.findall(r"  (n\d+) --> (n\d+)\n", drawn)}
    assert arrows == by_hand(finished_pipeline.plan.workspace)
    picture = ElementTree.fromstring(found.to_svg())
    texts = {element.text for element in picture.iter() if element.tag.endswith("text")}
    assert {f"{node.kind} {node.name}" for node in found.nodes} <= texts
    assert sum(element.tag.endswith("path") for element in picture.iter()) == len(arrows)


def test_the_command_prints_all_or_what_is_served(finished_pipeline):
    told = ["lineage", "--set", f"workspace={finished_pipeline.plan.workspace}"]
    shown = CliRunner().invoke(build_app(), told)
    assert shown.exit_code == 0
    assert shown.output == read_lineage(finished_pipeline.plan.workspace).to_text()
    assert "v00000001" in shown.output
    assert "published" in shown.output
    assert CliRunner().invoke(build_app(), [*told, "--mermaid"]).output.startswith("graph LR\n")
    assert set(read_lineage(finished_pipeline.plan.workspace, include_unused=True).nodes) >= set(
        read_lineage(finished_pipeline.plan.workspace).nodes
    )


def test_nothing_made_or_published_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="tern index"):
        read_lineage(tmp_path)
    with pytest.raises(FileNotFoundError, match="tern pipeline"):
        read_lineage(tmp_path, include_unused=True)
