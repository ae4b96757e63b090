"""A workspace of version 0.1 is recognized: the error says what it is and what to do.

`old_workspace/` has manifests that version 0.1 wrote for the demo, with most shards of the stores left out.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from data.config import DemoConfig
from data.demo import is_generated
from data.manifest import read_store_manifest
from data.store import Store
from index.versions import read_version_manifest
from pipeline.lineage import read_lineage
from tern.card import ModelCard, read_model_card, write_model_card
from tern.config import ModelConfig
from tern.model.folder import WEIGHTS, load_model, save_weights
from tern.networks.build import build_trainable

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
        f"schema 4. Delete {folder} and run the command again to recompute it, or install version 0.1."
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
    writer = "was written by version 0.1 of this program (training version 7); this version reads version 11"
    remedy = f"Delete {folder} and run `tern train`; the stores and the published index stay usable"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{folder}/model.json {writer}. {remedy}.')}$"):
        read_model_card(folder)


def test_index_of_version_0_1_is_recognized(workspace):
    root = workspace / "index"
    message = f"{root} has index schema 2, written by version 0.1 of this program; this version reads schema 7."
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


@pytest.mark.parametrize(("schema", "writer"), [(1, "an older"), (5, "a newer")])
def test_store_of_another_version_says_what_to_do(schema, writer, workspace):
    path = workspace / STORES[0] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    message = f"store schema {schema}, written by {writer} version of this program; this version reads schema 4."
    with pytest.raises(ValueError, match=re.escape(message)):
        read_store_manifest(path.parent)


@pytest.mark.parametrize(("schema", "writer"), [(1, "an older"), (8, "a newer")])
def test_index_of_another_version_is_not_called_damaged(schema, writer, workspace):
    (path,) = (workspace / "index" / "versions").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    with pytest.raises(ValueError, match=f"index schema {schema}, written by {writer} version of this program"):
        read_version_manifest(workspace / "index")


def test_weights_with_other_names_are_of_another_version(tmp_path):
    config = ModelConfig(width=16, heads=2, embed_dim=8)
    model = build_trainable(config, 6, 5, None)
    save_weights(tmp_path / WEIGHTS, model)
    card = {"fingerprint": "0" * 12, "region_recipe": "a" * 12, "token_recipe": "b" * 12, "fine_tuned": False}
    write_model_card(tmp_path, ModelCard(**card, model=config, region_dim=6, token_dim=5, num_parameters=1))
    load_model(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    weights["old_name"] = weights.pop(max(weights))
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"so another version of this program wrote it\. Delete .* run `tern train`"):
        load_model(tmp_path)
