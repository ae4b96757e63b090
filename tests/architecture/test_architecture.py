"""The house keeps its walls: who imports whom, one home a heavy library, and what a plan or the README may say."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BELOW = {  # a package imports only what stands below it; the three workshops never meet
    "data": set(),
    "extractors": {"data"},
    "tern": {"data"},
    "index": {"data"},
    "pipeline": {"data", "extractors", "tern", "index"},
    "flows": {"data", "extractors", "tern", "index", "pipeline"},
}
HOMES = {
    "h5py": {"data"},
    "torch": {"extractors", "tern"},
    "torchvision": {"extractors"},
    "detectron2": {"extractors"},
    "transformers": {"extractors"},
    "pytorch_metric_learning": {"tern"},
    "faiss": {"index"},
    "prefect": {"flows"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", BELOW)
def test_packages_import_only_downwards_and_heavy_libraries_have_one_home(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path)
        upwards = (names & set(BELOW)) - BELOW[package] - {package}
        assert not upwards, f"{path} imports {upwards}"
        strangers = {name for name in names if name in HOMES and package not in HOMES[name]}
        assert not strangers, f"{path} imports {strangers}, which live in {[HOMES[name] for name in strangers]}"


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys; from typer.testing import CliRunner; from pipeline.cli.app import build_app;"
        "assert CliRunner().invoke(build_app(), ['--help']).exit_code == 0;"
        "print(sorted({'torch', 'faiss', 'h5py', 'prefect', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]", f"imported in {time.perf_counter() - start:.2f} s"
