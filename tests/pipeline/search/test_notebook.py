"""The notebook of the documentation runs, and shows hits as HTML."""

import os

import pytest

from pipeline.search import Searcher
from tests.helpers.light_starts import ROOT
from tests.helpers.small_plan import small_plan

pytest.importorskip("ipykernel", reason="ipykernel (extra `dev`) is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbclient (extra `dev`) is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient (extra `dev`) is not installed")

NOTEBOOK = ROOT / "docs" / "notebooks" / "search.ipynb"


def test_notebook_is_stored_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell.outputs for cell in cells if cell.cell_type == "code" and cell.outputs] == []


@pytest.mark.slow
def test_notebook_runs_and_shows_hits(finished_pipeline, tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    plan = small_plan(finished_pipeline.plan.workspace.parent)
    first = next(cell for cell in notebook.cells if 'PLAN = "demo"' in cell.source)
    first.source = first.source.replace('PLAN = "demo"', f"PLAN = {str(plan)!r}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", ())
    ]
    assert len(shown) == 4
    text, similar, _, captions = shown
    searcher = Searcher(finished_pipeline.plan)
    expected = searcher.search_text("two dogs are running along the street", 6)
    assert [text.index(f">{hit.id}<") for hit in expected] == sorted(text.index(f">{hit.id}<") for hit in expected)
    assert text.count("<img") == 6
    assert f">{expected[0].id}<" not in similar, "the image that asks is left out"
    assert all(hit.captions[0] in captions for hit in searcher.search_image(expected[0].path, 3))
