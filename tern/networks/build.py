"""Build of `tern`."""

from __future__ import annotations

from torch import nn

from tern.config import ModelConfig
from tern.networks.default import Tern
from tern.networks.finetune import TernWithTextEncoder


def build_trainable(config: ModelConfig, region_dim: int, token_dim: int, text: nn.Module | None = None) -> nn.Module:
    """The model of a config, freshly drawn; with `text`, an encoder of token ids, one that trains that too."""
    tern = build_model(config, region_dim, token_dim)
    return tern if text is None else TernWithTextEncoder(tern, text)


def build_model(config: ModelConfig, region_dim: int, token_dim: int) -> nn.Module:
    """The network of `config.architecture`, with the methods and attributes of `Tern`."""
    if config.architecture == "default":
        return Tern(config, region_dim, token_dim)
    if config.architecture == "paper":
        from tern.networks.paper import PaperTern as Other  # both are built from parts of this file
    else:
        from tern.networks.kaylode import KaylodeTern as Other
    return Other(config, region_dim, token_dim)
