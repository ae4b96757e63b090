"""A small model package with random weights, which no workspace trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from data.io import sha256_file
from pipeline.runs.export import ExportOptions
from pipeline.runs.export.content import PackageContent
from pipeline.runs.export.folder import write_package
from tern.card import ModelCard, ModelPackage, PackageExtractor, PackageExtractors, PackageOrigin, PackagePath
from tern.config import ModelConfig
from tern.evaluation import Evaluation
from tern.networks import build_model
from tern.query import Calibration, CalibrationQueries

REGION_DIM, TOKEN_DIM = 6, 5
REGIONS = {"kind": "torchvision", "model": "demo", "weights": "demo", "max_regions": 12, "min_score": 0.3}
TEXT = {"model": "minilm", "layer": -1, "max_tokens": 64}
RECIPES = {
    "regions": {"extractor": "torchvision", "max_regions": 12, "dtype": "float32", "weights_sha256": "a" * 64},
    "text": {"extractor": "text", "layer": 6, "dtype": "float32", "batch_size": 4, "weights_sha256": "b" * 64},
}


def make_queries(n: int, prefix: str) -> CalibrationQueries:
    """Make calibration queries with random unit vectors."""
    vectors = np.random.default_rng(n).normal(size=(n, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    scores = np.linspace(-0.5, 0.9, n, dtype=np.float32)
    return CalibrationQueries(tuple(f"{prefix} {i}" for i in range(n)), vectors, scores, scores[::-1].copy())


def make_content(seed: int = 0, weights: str = "demo", paths: dict[str, PackagePath] | None = None) -> PackageContent:
    """Make the content of a package; the seed decides the weights."""
    torch.manual_seed(seed)
    config = ModelConfig(width=16, heads=2, embed_dim=8, feedforward_dim=16)
    model = build_model(config, REGION_DIM, TOKEN_DIM).eval()
    settings = {key: value for key, value in {**REGIONS, "weights": weights}.items() if key not in (paths or {})}
    card = ModelCard(
        fingerprint="0" * 12,
        model=config,
        region_dim=REGION_DIM,
        token_dim=TOKEN_DIM,
        region_recipe="a" * 12,
        token_recipe="b" * 12,
        fine_tuned=False,
        num_parameters=sum(p.numel() for p in model.parameters()),
    )
    regions = PackageExtractor(
        settings=settings, paths=paths or {}, recipe=RECIPES["regions"], weights_sha256="a" * 64, source=weights
    )
    text = PackageExtractor(settings=TEXT, recipe=RECIPES["text"], weights_sha256="b" * 64, source="minilm")
    return PackageContent(
        model=model,
        card=card,
        extractors=PackageExtractors(regions=regions, text=text),
        origin=PackageOrigin(program="0.2.0", model="tern-000000000000", dataset="scenes", images={"train": 4}),
        evaluation=Evaluation(splits={}),
        calibration=Calibration("val", 5, 9, make_queries(4, "caption"), make_queries(3, "image")),
    )


def write_small_package(folder: Path, content: PackageContent | None = None, half: bool = False) -> ModelPackage:
    """Write a package of a few kilobytes."""
    return write_package(folder, content or make_content(), ExportOptions(half=half))


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; `None` removes one."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a package, and its size and hash in `config.json`, as a forger would."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "config.json").read_text())["files"]
    files[name] = {"bytes": len(content), "sha256": sha256_file(folder / name)}
    edit_json(folder / "config.json", files=files)
