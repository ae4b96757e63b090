"""A workspace of version 0.1 is recognized: the error says what it is and what to do.

`old_workspace/` has manifests that version 0.1 wrote for the demo, with most shards of the stores left out.
"""

import re
import shutil
from pathlib import Path

import pytest

from data.config import DemoConfig
from data.demo import is_generated
from data.manifest import read_store_manifest
from data.store import Store
from index.versions import read_version_manifest
from pipeline.lineage import read_lineage
from tern.card import read_model_card

OLD = Path(__file__).parent / "old_workspace"
STORES = sorted(path.parent.relative_to(OLD) for path in OLD.glob("*/*-*/manifest.json"))


@pytest.fixture
def workspace(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "demo"))


@pytest.mark.parametrize("read", [read_store_manifest, Store])
@pytest.mark.parametrize("name", STORES, ids=str)
def test_store_of_version_0_1_is_recognized(name, read, workspace):
    folder = workspace / name
    message = (
        f"{folder / 'manifest.json'} has store schema 2, written by version 0.1 of this program; this version reads "
        f"schema 3. Delete {folder} and run the command again to recompute it, or install version 0.1."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(folder)


def test_demo_dataset_of_version_0_1_is_recognized(workspace):
    folder = workspace / "dataset"
    manifest, remedy = folder / "manifest.json", "to draw the demo dataset again, or install version 0.1."
    message = (
        f"{manifest} was written by version 0.1 of this program. Delete {folder} and run the command again {remedy}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        is_generated(DemoConfig(), folder)


def test_model_of_version_0_1_is_recognized(workspace):
    (folder,) = (workspace / "models").iterdir()
    message = (
        f"{folder / 'model.json'} was written by version 0.1 of this program (training version 7); this version reads "
        f"version 8. Delete {folder} and train again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_model_card(folder)


def test_index_of_version_0_1_is_recognized(workspace):
    root = workspace / "index"
    message = f"{root} has index schema 2, written by version 0.1 of this program; this version reads schema 3."
    pattern = f"^{re.escape(message)} Delete .* and run .tern index. again, or install version 0.1.$"
    for version in (None, 1):
        with pytest.raises(ValueError, match=pattern):
            read_version_manifest(root, version)


def test_lineage_of_version_0_1_says_what_to_do(workspace):
    with pytest.raises(ValueError, match=r"written by version 0\.1 of this program.*Delete "):
        read_lineage(workspace)


def test_old_workspace_has_each_kind_of_manifest():
    assert [str(name.parent) for name in STORES] == ["stores", "stores", "vectors"]
    assert (OLD / "index" / "CURRENT").is_file()
    assert len(list(OLD.glob("index/versions/*.json"))) == len(list(OLD.glob("models/*/model.json"))) == 1
