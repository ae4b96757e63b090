"""Backbones in ONNX Runtime: equal to torch, the same bits in every process, and a cache that checks what it reads."""

import json
import logging
import sys
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from data.io import sha256_file
from extractors.config import GridConfig
from extractors.nn import onnx_export
from extractors.nn.backbone import load_backbone
from extractors.nn.torch_backbone import TorchBackbone
from extractors.regions.grid_backbone import load_grid_backbone
from extractors.registry import build_region_extractor
from extractors.torch_free import GraphCache, OnnxBackbone
from tern.parallel.threads import torch_threads
from tests.helpers.image_bytes import picture
from tests.helpers.random_networks import calibrated, pictures

LAYERS = {
    "resnet18": ("layer3", "layer4"),
    "tf_efficientnet_lite0": ("blocks.6", "bn2"),
    "mambaout_femto": ("stages.2", "stages.3"),
    "deit_tiny_distilled_patch16_224": ("blocks.5", "norm"),
}
SIZES = {"deit_tiny_distilled_patch16_224": 96}
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of files with random weights by the name of the model."""
    folder = tmp_path_factory.mktemp("weights")
    for name in LAYERS:
        torch.manual_seed(6)
        sizes = {"img_size": SIZES[name]} if name in SIZES else {}
        model = calibrated(timm.create_model(name, num_classes=0, **sizes), pictures(2, 96, 96))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tern" / "onnx"


def make_config(folder: Path, model: str = LITE0, **settings) -> GridConfig:
    defaults = {"weights": str(folder / f"{model}.safetensors"), "layer": LAYERS[model], "full_precision": True}
    return GridConfig(model=model, **{**defaults, "image_size": SIZES.get(model, 128), "grid_size": (1, 2), **settings})


@pytest.mark.parametrize("model", LAYERS)
@pytest.mark.parametrize("fit", ["squash", "short side"])
def test_onnx_runtime_equals_torch(weights: Path, model: str, fit: str) -> None:
    config = make_config(weights, model, fit=fit)
    found = load_grid_backbone(config)
    backbone, info = load_backbone(config, Path(config.weights))
    expected = TorchBackbone(backbone, info, config)
    if fit == "short side" and model in SIZES:
        assert found.name == "torch", "the trace of a ViT fixes the number of its patches"
    else:
        assert (found.name, found.dtype_name) == ("onnxruntime", "float32")
    assert found.info == info
    for height, width in [(150, 210), (300, 100)]:
        pixels = info.fit.prepare(picture(1, height, width))
        inputs = torch.from_numpy(pixels)
        is_onnx = isinstance(found, OnnxBackbone)
        with torch.inference_mode():
            maps = found.run(pixels) if is_onnx else [part[0] for part in found.run(inputs[None])]
            for x, y in zip(maps, expected.run(inputs[None]), strict=True):
                assert y.std() > 0.01
                np.testing.assert_allclose(x, y[0], atol=1e-4 * float(y.abs().max()))
        for is_normalized in (True, False):
            rows = found.compute_rows(pixels if is_onnx else [inputs], (1, 2, 3), is_normalized)
            other = expected.compute_rows([inputs], (1, 2, 3), is_normalized)[0]
            np.testing.assert_allclose(rows if is_onnx else rows[0], other, atol=2e-3 * float(np.abs(other).max()))


def test_rows_of_an_image_depend_on_nothing_but_the_image(weights: Path) -> None:
    """Alone, among others, with other numbers of threads, in another process: the same bits."""
    config = make_config(weights)
    extractor = build_region_extractor(config)
    images = [picture(seed, 150, 210 + seed) for seed in range(4)]
    alone = [extractor([image])[0].features for image in images]
    for threads in (1, 3):
        with torch_threads(threads):
            together = extractor(images)
        for expected, regions in zip(alone, together, strict=True):
            np.testing.assert_array_equal(regions.features, expected)
    code = f"""
import sys, numpy as np
from extractors.config import GridConfig
from extractors.registry import build_region_extractor
from tests.helpers.image_bytes import picture
extractor = build_region_extractor(GridConfig.model_validate_json({config.model_dump_json()!r}))
np.save(sys.argv[1], extractor([picture(3, 150, 213), picture(2, 150, 212)])[0].features)
print("torch" in sys.modules, "timm" in sys.modules)
"""
    file = weights / "rows.npy"
    done = run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(np.load(file), alone[3])
    assert done.stdout.split() == ["False", "False"], "a cached graph needs neither torch nor timm"


def test_graph_is_exported_once_and_again_if_its_file_is_not_the_one_written(
    weights: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, exports, export_graph = make_config(weights), [], onnx_export.export_graph

    def count_export(*args):
        exports.append(exports[0] if exports else export_graph(*args))
        return exports[0]

    monkeypatch.setattr(onnx_export, "export_graph", count_export)
    first = load_grid_backbone(config)
    assert isinstance(first, OnnxBackbone)
    graph, entry = sorted(empty_cache.iterdir(), reverse=True)
    assert (graph.suffix, entry.suffix) == (".onnx", ".json")
    content, text = graph.read_bytes(), entry.read_text()
    load_grid_backbone(config)
    assert len(exports) == 1
    foreign = json.dumps({**json.loads(text), "key": {"model": "other"}})
    damages = [
        (graph, content[:-1000]),
        (graph, content[:5000] + bytes(8) + content[5008:]),
        (graph, b""),
        (entry, text.encode()[:100]),
        (entry, foreign.encode()),
        (entry, b"[]"),
        (entry, json.dumps({**json.loads(text), "more": 1}).encode()),
    ]
    for number, (file, damage) in enumerate(damages, start=2):
        file.write_bytes(damage)
        found = load_grid_backbone(config)
        assert len(exports) == number, damage[:50]
        assert found.info == first.info
        assert len(load_grid_backbone(config).info.channels) == 2
        assert len(exports) == number, "the cache is whole again"
    graph.unlink()
    load_grid_backbone(config)
    assert len(exports) == len(damages) + 2
    assert not list(empty_cache.glob(".*")), "no temporary file is left"


def test_graph_name_depends_on_what_determines_the_graph(weights: Path, empty_cache: Path, tmp_path: Path) -> None:
    config = make_config(weights)
    changes = [{"layer": "bn2"}, {"fit": "center crop"}, {"image_size": 96}, {"model": "tf_efficientnet_lite1"}]
    changes.append({"weights": "photos"})
    paths = {GraphCache(config.model_copy(update=change), "0" * 64).path for change in changes}
    paths |= {GraphCache(config, "0" * 64).path, GraphCache(config, "1" * 64).path}
    assert len(paths) == len(changes) + 2
    same = [{"grid_size": 3}, {"normalize": True}, {"weights": str(tmp_path / "copy.pth")}, {"whole_image": True}]
    assert {GraphCache(config.model_copy(update=change), "0" * 64).path for change in same} == {
        GraphCache(config, "0" * 64).path
    }
    assert all(path.parent == empty_cache for path in paths)


def test_equal_weights_in_another_file_have_an_equal_recipe(weights: Path, tmp_path: Path) -> None:
    config = make_config(weights)
    torch.save({"model": load_file(config.weights)}, tmp_path / "again.pth")
    copy = config.model_copy(update={"weights": str(tmp_path / "again.pth")})
    assert sha256_file(Path(copy.weights)) != sha256_file(Path(config.weights))
    assert build_region_extractor(copy).recipe == build_region_extractor(config).recipe


def test_cache_folder_that_cannot_be_written_changes_no_row(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, image = make_config(weights), picture(1, 150, 210)
    expected = build_region_extractor(config)
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with caplog.at_level(logging.WARNING):
        found = build_region_extractor(config)
    assert [record.message for record in caplog.records if "cannot be kept in" in record.message]
    assert found.recipe == expected.recipe
    np.testing.assert_array_equal(found([image])[0].features, expected([image])[0].features)


def test_backbone_that_cannot_be_exported_runs_in_torch(
    weights: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(weights)
    monkeypatch.setattr(onnx_export, "MAX_RELATIVE_ERROR", -1.0)  # as if the graph computed other maps
    with caplog.at_level(logging.WARNING):
        extractor = build_region_extractor(config)
    assert "tf_efficientnet_lite0 cannot be exported to ONNX (the exported graph differs" in caplog.text
    assert extractor.recipe["runtime"] == "torch"
    assert not empty_cache.exists() or not list(empty_cache.iterdir())
    assert extractor([picture(1, 150, 210)])[0].features.shape == (5, 320 + 1280)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_rows_are_close_and_do_not_depend_on_the_batch(weights: Path) -> None:
    config = make_config(weights, full_precision=False, device="cuda")
    extractor = build_region_extractor(config)
    images = [picture(seed, 150, 210) for seed in range(40)]
    rows = [regions.features for regions in extractor(images)]
    for seed in (0, 35):
        np.testing.assert_array_equal(extractor([images[seed]])[0].features, rows[seed])
    expected = build_region_extractor(make_config(weights))(images)
    for x, y in zip(rows, expected, strict=True):
        a, b = x.astype(float), y.features.astype(float)
        assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.995
    assert extractor.recipe["runtime"] == "torch"
    assert extractor.recipe["device"] == "cuda"


def test_runtime_writes_no_telemetry_to_the_home_folder(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", "import data.onnx"]
    run(command, check=True, env=environment, timeout=120)
    assert list(tmp_path.rglob("*")) == []
