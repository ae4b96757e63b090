"""A model package for photographs that is quick: random weights on features of small inputs."""

from dataclasses import replace
from pathlib import Path

import torch

from extractors.config import GridConfig, TextConfig
from pipeline.plans.extractor_settings import describe_extractor
from pipeline.stages.extractors import get_extractor
from tern.card import PackageExtractors
from tern.networks import build_model
from tests.helpers.packages import make_content, write_small_package

GRID = GridConfig(model="tf_efficientnet_lite2", weights="photos", layer="blocks.6", grid_size=2, image_size=64)
TEXT = TextConfig(model="minilm")
GRID_DIM, TOKEN_DIM = 352, 384


def write_photo_package(folder: Path, seed: int = 0) -> Path:
    """Write a package of the extractors above with random weights, which the seed decides. Returns the folder."""
    content = make_content(seed)
    torch.manual_seed(seed)
    recipes = get_extractor(GRID).recipe, get_extractor(TEXT).recipe
    card = content.card.model_copy(update={"region_dim": GRID_DIM, "token_dim": TOKEN_DIM})
    extractors = PackageExtractors(
        regions=describe_extractor(GRID, recipes[0]), text=describe_extractor(TEXT, recipes[1])
    )
    model = build_model(card.model, GRID_DIM, TOKEN_DIM).eval()
    write_small_package(folder, replace(content, model=model, card=card, extractors=extractors))
    return folder
