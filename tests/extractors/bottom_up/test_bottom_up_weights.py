"""Weights of the bottom-up model: all layouts give the same model; incomplete or unsafe files are rejected."""

import json
import os
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from extractors.bottom_up.extractor import BottomUpExtractor
from extractors.bottom_up.model import BottomUpRCNN
from extractors.bottom_up.proposals import caffe_anchors
from extractors.bottom_up.weights import convert_weights, load_bottom_up, save_weights, to_canonical_state_dict
from extractors.config import BottomUpConfig
from pipeline.cli.app import build_app
from tests.helpers import bottom_up_ports as ports

pytestmark = pytest.mark.slow

CLASSES, ATTRIBUTES = 6, 4


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights of a model with few classes; batch norms with variances above 0."""
    torch.manual_seed(1)
    model = BottomUpRCNN(CLASSES, ATTRIBUTES)
    for key, value in model.state_dict().items():
        if "bn" in key or "downsample.1" in key:
            value.uniform_(0.5, 1.5)
    model.rpn.anchors.copy_(caffe_anchors())
    return model.state_dict()


def same(found: dict[str, torch.Tensor], state: dict[str, torch.Tensor], background_box: bool = True) -> None:
    assert set(found) == set(state)
    for key, value in state.items():
        skip = (
            4 if key.startswith("bbox_pred") and not background_box else 0
        )  # the port predicts no box for the background
        torch.testing.assert_close(found[key][skip:], value[skip:], rtol=1e-5, atol=1e-6, msg=key)


def written(folder: Path, kind: str, state: dict[str, torch.Tensor]) -> Path:
    """Write a file as each port publishes it."""
    path = folder / {"milvlg": "bua.pth", "airsplay": "frcnn.pkl", "hugging face": "pytorch_model.bin"}[kind]
    if kind == "milvlg":
        torch.save({"model": ports.milvlg(state), "iteration": 7}, path)
    elif kind == "hugging face":
        torch.save(ports.airsplay(state), path)
    else:
        arrays = {key: value.numpy() for key, value in ports.airsplay(state).items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=2))
    return path


@pytest.mark.parametrize("kind", ["milvlg", "airsplay", "hugging face"])
def test_convert_weights_gives_the_same_model_for_every_layout(
    state: dict[str, torch.Tensor], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "objects_vocab.txt").write_text("yolk\nbus,coach\ncat\nred car\nsky\nman")
    (tmp_path / "attributes_vocab.txt").write_text("gray,grayish\nwet\nold\nTall\n")
    target = tmp_path / "vg.safetensors"
    found = convert_weights(written(tmp_path, kind, state), target, vocabulary=tmp_path)
    same(load_file(target), state, background_box=kind == "milvlg")
    _, classes, attributes = load_bottom_up(target, None, None)
    assert classes == ("yolk", "bus", "cat", "red car", "sky", "man")
    assert attributes == ("gray", "wet", "old", "tall")
    again = tmp_path / "again.safetensors"
    assert convert_weights(target, again) == found, "the hash is that of the tensors"
    extractor = BottomUpExtractor(BottomUpConfig(weights=target))
    assert extractor.recipe["weights_sha256"] == found
    assert extractor.classes == classes


def test_to_canonical_state_dict_accepts_a_model_without_attributes(state: dict[str, torch.Tensor]) -> None:
    plain = {k: v for k, v in ports.airsplay(state).items() if "attr" not in k and "embedding" not in k}
    kept = {k: v for k, v in state.items() if not k.startswith(("attr_", "cls_embed"))}
    found = to_canonical_state_dict(plain, "file")
    assert not [name for name in found if "attr" in name or "embed" in name]
    same(found, kept, background_box=False)


def test_to_canonical_state_dict_keeps_the_order_and_convention_of_stored_anchors(
    state: dict[str, torch.Tensor],
) -> None:
    turned = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    inclusive = caffe_anchors()[turned]
    for layout, stored in ((ports.milvlg, inclusive), (ports.airsplay, inclusive)):
        found = to_canonical_state_dict({**layout(state), ports.CELL_ANCHORS: stored}, "file")["rpn.anchors"]
        assert torch.equal(found, inclusive), "the anchors of Caffe are kept in every layout"
    edges = inclusive + torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert torch.equal(
        to_canonical_state_dict({**ports.airsplay(state), ports.CELL_ANCHORS: edges}, "file")["rpn.anchors"], inclusive
    )
    whole = to_canonical_state_dict({**ports.milvlg(state), ports.CELL_ANCHORS: inclusive.long()}, "file")
    assert torch.equal(whole["rpn.anchors"], inclusive)
    odd = to_canonical_state_dict({**ports.milvlg(state), ports.CELL_ANCHORS: inclusive + 0.25}, "file")
    assert torch.equal(odd["rpn.anchors"], inclusive + 0.25)


@pytest.mark.parametrize("layout", [ports.milvlg, ports.airsplay])
def test_to_canonical_state_dict_requires_anchors_if_they_are_missing(state: dict[str, torch.Tensor], layout) -> None:
    bare = layout(state, anchors=False)
    with pytest.raises(ValueError, match=r"does not contain proposal_generator.*caffe or detectron2"):
        to_canonical_state_dict(bare, "file")
    ours = to_canonical_state_dict(bare, "file", "caffe")["rpn.anchors"]
    if layout is ports.milvlg:
        assert torch.equal(ours, caffe_anchors())
        with pytest.raises(ValueError, match="two logits per anchor"):
            to_canonical_state_dict(bare, "file", "detectron2")
        return
    # airsplay's channels are size-major: 64 pixels in the ratios 0.5, 1 and 2, then 128, ...
    assert ours[:4].tolist() == [[-38, -16, 53, 31], [-24, -24, 39, 39], [-14, -36, 29, 51], [-84, -40, 99, 55]]
    assert {tuple(row) for row in ours.tolist()} == {tuple(row) for row in caffe_anchors().tolist()}
    theirs = to_canonical_state_dict(bare, "file", "detectron2")["rpn.anchors"]
    # Inclusive edges: the first of size 64 is 64 sqrt(2) wide and 64 / sqrt(2) high around the corner of the cell.
    sides = (theirs[:, 2:] - theirs[:, :2] + 1).numpy()
    np.testing.assert_allclose(sides[0], [64 * 2**0.5, 64 / 2**0.5], rtol=1e-6)
    np.testing.assert_allclose(sides.prod(1), np.repeat([64**2, 128**2, 256**2, 512**2], 3), rtol=1e-5)
    np.testing.assert_allclose((theirs[:, :2] + (theirs[:, 2:] + 1)).numpy(), 0, atol=1e-4)


def changed(state: dict[str, torch.Tensor], case: str) -> dict[str, torch.Tensor]:
    found = ports.milvlg(state)
    heads = "roi_heads.box_predictor."
    if case == "mixed":
        found[f"{heads}bbox_pred.weight"] = found[f"{heads}bbox_pred.weight"][4:]
    elif case == "other":
        del found[f"{heads}cls_score.weight"]
    elif case == "deeper":
        found["backbone.res4.23.conv1.weight"] = torch.zeros(1)
    elif case == "mean":
        found["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675])
    elif case == "deviation":
        found["pixel_std"] = torch.tensor([57.4, 57.1, 58.4])
    elif case == "two means":
        found["pixel_mean"] = torch.zeros(2)
    elif case == "no bias":
        del found[f"{heads}bbox_pred.bias"]
    elif case == "no dimension":
        found[f"{heads}cls_score.weight"] = torch.tensor(1.0)
    elif case == "anchors":
        found[ports.CELL_ANCHORS] = torch.zeros(15, 4)
    elif case == "more":
        found["roi_heads.mask_head.weight"] = torch.zeros(1)
    elif case == "shape":
        found["backbone.res2.0.conv1.weight"] = torch.zeros(3, 3)
    elif case == "lacks":
        del found["backbone.res3.1.conv2.weight"]
    return found


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("mixed", "no known layout: 24 objectness rows, 7 class rows, 24 box rows"),
        ("other", r"nothing for roi_heads\.box_predictor\.cls_score"),
        ("deeper", "24 blocks in res4, but ResNet-101 has 23"),
        ("mean", "trained with the pixel_mean"),
        ("two means", "trained with the pixel_mean"),
        ("deviation", "trained with the pixel_std"),
        ("no bias", r"nothing for roi_heads\.box_predictor\.bbox_pred\.bias"),
        ("no dimension", r"\(\) for roi_heads\.box_predictor\.cls_score\.weight"),
        ("anchors", r"cell_anchors\.0 is \(15, 4\)"),
        ("more", "mask_head"),
        ("shape", r"'res2\.0\.conv1\.weight' is \(3, 3\)"),
        ("lacks", r"lack 'res3\.1\.conv2\.weight'"),
    ],
)
def test_load_bottom_up_rejects_similar_models_and_damaged_files(
    state: dict[str, torch.Tensor], tmp_path: Path, case: str, message: str
) -> None:
    save_file({k: v.contiguous() for k, v in changed(state, case).items()}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=message):
        load_bottom_up(tmp_path / "odd.safetensors", None, None)


class Attack:
    """Creates a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".bin"])
def test_load_bottom_up_runs_no_pickled_code(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"evil{suffix}"
    content = {"model": {"a": np.ones(3)}, "b": Attack(tmp_path / "made")}
    path.write_bytes(pickle.dumps(content)) if suffix == ".pkl" else torch.save(content, path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_bottom_up(path, None, None)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"", ".pkl", "cannot be read"),
        (b"no weights", ".safetensors", "cannot be read"),
        (pickle.dumps([1, 2]), ".pkl", "contains a list, not arrays"),
        (pickle.dumps({"model": {"w": np.ones(2)}, "matching_heuristics": True}), ".pkl", "Caffe2"),
        (pickle.dumps({"a": np.ones(2)}), ".pkl", "nothing for proposal_generator"),
    ],
)
def test_load_bottom_up_rejects_files_without_weights(
    tmp_path: Path, content: bytes, suffix: str, message: str
) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_bottom_up(path, None, None)


def test_load_bottom_up_rejects_compressed_checkpoints_and_other_objects(tmp_path: Path) -> None:
    path = tmp_path / "grown.pth"
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="entries are compressed"):
        load_bottom_up(path, None, None)
    torch.save({"model": {"a": torch.ones(1)}, "args": Namespace(lr=1)}, path)
    with pytest.raises(ValueError, match=r"contains .*Namespace, which is not a tensor; save only state_dict\(\)"):
        load_bottom_up(path, None, None)
    path.with_suffix(".pkl").write_bytes(pickle.dumps({"model": {"a": np.ones(2), "b": [1, 2]}}))
    with pytest.raises(ValueError, match="'b' is a list, not an array"):
        load_bottom_up(path.with_suffix(".pkl"), None, None)


def test_load_bottom_up_rejects_changed_files_and_vocabularies_of_another_length(state: dict, tmp_path: Path) -> None:
    model = BottomUpRCNN(CLASSES, ATTRIBUTES)
    model.load_state_dict(state)
    path = tmp_path / "vg.safetensors"
    save_weights(model, path, {"classes": json.dumps(["a"] * CLASSES)})
    (tmp_path / "objects_vocab.txt").write_text("cat\ndog")
    (tmp_path / "attributes_vocab.txt").write_text("wet")
    with pytest.raises(ValueError, match="lists 2 classes, but the weights have 6"):
        load_bottom_up(path, None, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"The vocabulary .* does not exist"):
        load_bottom_up(path, None, tmp_path / "nowhere")
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 4
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"its header lists .*Convert the original file again"):
        load_bottom_up(path, None, None)


def test_weights_commands_convert_and_show_a_file(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    app, source = build_app(), written(tmp_path, "milvlg", state)
    made = CliRunner().invoke(app, ["weights", "convert", str(source), str(tmp_path / "vg.safetensors")])
    assert made.exit_code == 0, made.output
    assert 'kind = "bottom-up"' in made.output
    shown = CliRunner().invoke(app, ["weights", "info", str(tmp_path / "vg.safetensors")])
    assert "origin         bua.pth" in shown.output
    again = CliRunner().invoke(app, ["weights", "convert", str(source), str(tmp_path / "vg.safetensors")])
    assert "already exists" in str(again.exception)
