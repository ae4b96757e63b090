"""Model packages: read, verified and imported; a bad one is one line that names the file."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from data.io import sha256_file
from data.manifest import Item, ShardPlan, open_or_create_store
from data.store import Store, write_shard
from data.store.writing import commit
from pipeline.cli.app import build_app
from tern.card import MODEL_CARD, is_package, read_model_card, read_package, verify_package
from tern.model import import_package, load_model
from tern.query import read_calibration
from tests.helpers.packages import RECIPES, REGION_DIM, TOKEN_DIM, edit_json, make_content, rewrite, write_small_package


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_small_package(tmp_path_factory.mktemp("packages") / "small").folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "small")
    return tmp_path / "small"


def make_store(root, kind, dim, recipe):
    """Make a store of one item with rows of a width."""
    folder = open_or_create_store(root, kind, recipe, "float16")
    rows = {"features": np.ones((2, dim), "f2")}
    if kind == "tokens":
        rows |= {"token_ids": np.ones(2, "i4"), "full_length": np.array(2, "i4")}
    else:
        rows |= {"boxes": np.ones((2, 4), "f4"), "class_ids": np.zeros(2, "i4"), "scores": np.ones(2, "f4")}
        rows |= {"attr_ids": np.zeros(2, "i4"), "attr_scores": np.ones(2, "f4"), "size": np.array([8, 8], "i4")}
    commit(folder, [write_shard(folder, ShardPlan((Item("1", "a" * 64),)), [rows])])
    return Store(folder)


@pytest.fixture
def stores(tmp_path):
    root = tmp_path / "stores"
    return make_store(root, "regions", REGION_DIM, RECIPES["regions"]), make_store(
        root, "tokens", TOKEN_DIM, RECIPES["text"]
    )


def test_package_is_read_back_as_written(folder):
    package = read_package(folder)
    content = make_content()
    assert package.extractors == content.extractors
    assert package.config.origin == content.origin
    assert package.digest == sha256_file(folder / "config.json")
    assert set(package.config.files) | {"config.json"} == {path.name for path in folder.iterdir()}
    assert list(verify_package(package)) == sorted(package.config.files)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_imported_model_has_the_weights_of_the_package(tmp_path, stores, half):
    content = make_content(seed=3)
    package = write_small_package(tmp_path / "package", content, half)
    model_folder = import_package(package, tmp_path / "models", *stores, lambda: None)
    found, expected = load_model(model_folder).state_dict(), content.model.state_dict()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        rounded = value.half().float() if half and value.ndim >= 2 else value
        assert torch.equal(found[name], rounded), name
    card = read_model_card(model_folder)
    assert (card.checkpoint, card.sha256) == ("package", package.digest)
    calibration = read_calibration(model_folder)
    assert calibration is not None
    assert calibration.caption.texts == content.calibration.caption.texts


def test_name_of_the_model_follows_from_package_and_stores(tmp_path, stores):
    first, second = (write_small_package(tmp_path / f"p{seed}", make_content(seed)) for seed in (0, 1))
    other = make_store(tmp_path / "other", "regions", REGION_DIM, RECIPES["regions"] | {"device": "cuda"})
    regions, tokens = stores
    folders = [
        import_package(package, tmp_path / "models", region_store, tokens, lambda: None)
        for package, region_store in ((first, regions), (second, regions), (first, other), (first, regions))
    ]
    assert len({folder.name for folder in folders[:3]}) == 3
    assert folders[3] == folders[0]


def test_equal_exports_give_equal_packages(tmp_path):
    digests = [write_small_package(tmp_path / name / "package").digest for name in "ab"]
    assert digests[0] == digests[1]


def test_interrupted_import_is_repeated(folder, stores, tmp_path):
    package = read_package(folder)
    model = import_package(package, tmp_path / "models", *stores, lambda: None)
    weights = (model / "best.safetensors").read_bytes()
    (model / MODEL_CARD).unlink()  # it is written last
    (model / "best.safetensors").write_bytes(weights[:50])
    assert import_package(package, tmp_path / "models", *stores, lambda: None) == model
    assert (model / "best.safetensors").read_bytes() == weights


def relink(path):
    content = path.read_bytes()
    target = path.parent.parent / "outside"
    target.write_bytes(content)
    path.unlink()
    path.symlink_to(target)


def list_file(folder, name):
    files = json.loads((folder / "config.json").read_text())["files"]
    edit_json(folder / "config.json", files=files | {name: {"bytes": 1, "sha256": "0" * 64}})


def change_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def edit_model(folder, **changes):
    model = json.loads((folder / "config.json").read_text())["model"]
    edit_json(folder / "config.json", model=model | changes)


def edit_extractors(folder, table, **changes):
    content = json.loads((folder / "extractors.json").read_text())
    content[table] |= changes
    rewrite(folder, "extractors.json", json.dumps(content).encode())


BAD = {
    "no folder": (lambda f: shutil.rmtree(f), FileNotFoundError, "small is not a folder"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_text("x")), FileNotFoundError, "small is not a folder"),
    "foreign folder": (lambda f: (f / "config.json").unlink(), FileNotFoundError, "it has no config.json"),
    "foreign config": (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), ValueError, "not that of a"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ValueError, "config.json is not that of a"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json is not valid JSON"),
    "huge config": (lambda f: os.truncate(f / "config.json", 1 << 40), ValueError, "1,099,511,627,776 bytes; at most"),
    "newer schema": (lambda f: edit_json(f / "config.json", schema=4), ValueError, "schema 4, written by a newer"),
    "no schema": (lambda f: edit_json(f / "config.json", schema=None), ValueError, "package schema None"),
    "newer network": (lambda f: edit_json(f / "config.json", network=99), ValueError, "network version 99, written by"),
    "unknown key": (lambda f: edit_json(f / "config.json", more=1), ValueError, "more: Extra inputs"),
    "unknown architecture": (lambda f: edit_model(f, architecture="x"), ValueError, "model.architecture"),
    "huge layer": (lambda f: edit_model(f, width=1 << 40), ValueError, "width has 1,099,511,627,776 units; at most"),
    "many layers": (lambda f: edit_model(f, visual_layers=10**9), ValueError, "visual_layers has 1,000,000,000 units"),
    "huge dim": (lambda f: edit_json(f / "config.json", region_dim=1 << 40), ValueError, "region_dim: Input should"),
    "fine-tuned": (lambda f: edit_json(f / "config.json", fine_tuned=True), ValueError, "fine_tuned is True"),
    "missing weights": (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "lacks .*model.safetensors"),
    "missing card": (lambda f: (f / "README.md").unlink(), FileNotFoundError, "lacks .*README.md"),
    "not listed": (
        lambda f: edit_json(f / "config.json", files={}), ValueError, "files: Value error, model.safetensors is not"),
    "path leaves": (lambda f: list_file(f, "../x"), ValueError, "'../x' is not the name of a file of a package"),
    "absolute path": (lambda f: list_file(f, "/etc/passwd"), ValueError, "'/etc/passwd' is not the name"),
    "truncated": (
        lambda f: os.truncate(f / "model.safetensors", 100), ValueError, "model.safetensors has 100 bytes, but"),
    "a link": (lambda f: relink(f / "model.safetensors"), ValueError, "model.safetensors is a link"),
    "a linked config": (lambda f: relink(f / "config.json"), ValueError, "config.json is a link"),
    "a folder as a file": (
        lambda f: ((f / "metrics.json").unlink(), (f / "metrics.json").mkdir()), ValueError, "metrics.json is not a"),
    "a pipe": (
        lambda f: ((f / "metrics.json").unlink(), os.mkfifo(f / "metrics.json")), ValueError, "metrics.json is not a"),
    "changed extractors": (lambda f: change_byte(f / "extractors.json"), ValueError, "extractors.json has sha256"),
    "extractors of another form": (
        lambda f: rewrite(f, "extractors.json", b'{"regions": 3}'), ValueError, "extractors.json is not that"),
    "a file that is not there": (
        lambda f: edit_extractors(f, "regions", paths={"weights": {"name": "x", "file": "detector.safetensors"}}),
        ValueError, "extractors.json names detector.safetensors, which the package does not have"),
    "a path to outside": (
        lambda f: edit_extractors(f, "regions", paths={"weights": {"name": "x", "file": "../../x.safetensors"}}),
        ValueError, "regions.paths.weights.file: Input should be 'detector.safetensors'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_package_is_one_error_that_names_the_file(folder, case):
    damage, kind, message = BAD[case]
    damage(folder)
    with pytest.raises(kind, match=message) as caught:
        read_package(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    for command in ("info", "verify"):
        result = CliRunner().invoke(build_app(), ["model", command, str(folder)])
        assert isinstance(result.exception, kind), "the commands read it in the same way"


@pytest.mark.parametrize("name", ["model.safetensors", "calibration.safetensors", "README.md", "metrics.json"])
def test_changed_byte_is_found_by_verify_and_by_the_import(folder, stores, tmp_path, name):
    change_byte(folder / name)
    package = read_package(folder)
    with pytest.raises(ValueError, match=f"{name} has sha256 .* is expected"):
        list(verify_package(package))
    with pytest.raises(ValueError, match=f"{name} has sha256"):
        import_package(package, tmp_path / "models", *stores, lambda: None)
    assert not (tmp_path / "models").exists()


def edit_header(content: bytes, change) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def rename_first(header):
    name = sorted(header)[0]
    header["other"] = header.pop(name)


FORGED = {
    "huge header": (lambda content: struct.pack("<Q", 1 << 60) + content[8:], "header"),
    "not safetensors": (lambda content: b"\x80\x04pickle" * 20, "header"),
    "other names": (lambda content: edit_header(content, rename_first), "has other weights than the network"),
    "other shapes": (
        lambda content: edit_header(
            content, lambda h: h["visual.0.norm1.weight"].update(shape=[4, 4])
        ), r"F32 \(4, 4\), but F32 \(16,\) is expected",
    ),
    "other types": (
        lambda content: edit_header(
            content, lambda h: h["visual.0.norm1.weight"].update(dtype="I32")
        ), r"I32 \(16,\), but F32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_forged_weights_are_refused_before_memory_is_taken(folder, stores, tmp_path, case):
    forge, message = FORGED[case]
    rewrite(folder, "model.safetensors", forge((folder / "model.safetensors").read_bytes()))
    package = read_package(folder)
    with pytest.raises(ValueError, match=message) as caught:
        import_package(package, tmp_path / "models", *stores, lambda: None)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "models").glob("*"))


def test_config_with_other_sizes_than_the_weights_is_refused(folder, stores, tmp_path):
    edit_model(folder, width=1 << 14, feedforward_dim=1 << 16)  # 10 GB of weights, if they were made
    with pytest.raises(ValueError, match="do not fit to its config"):
        import_package(read_package(folder), tmp_path / "models", *stores, lambda: None)


@pytest.mark.parametrize("kind", ["regions", "tokens"])
def test_features_of_another_width_are_refused(folder, stores, tmp_path, kind):
    other = make_store(tmp_path / "wide", kind, 9, RECIPES["text"])
    pair = (other, stores[1]) if kind == "regions" else (stores[0], other)
    with pytest.raises(ValueError, match=rf"reads {kind} of \d numbers, but .* has 9"):
        import_package(read_package(folder), tmp_path / "models", *pair, lambda: None)


def test_folder_is_recognized_as_a_package(folder, tmp_path):
    assert is_package(folder)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert not is_package(tmp_path)
    assert not is_package(tmp_path / "missing")
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")  # reading it would wait for a writer
    assert not is_package(tmp_path)
