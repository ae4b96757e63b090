"""Build the network of a configuration. Used by training, by loading and by the import of checkpoints."""

from __future__ import annotations

from typing import Any

from torch import nn

from tern.config import ModelConfig
from tern.networks.default import Tern
from tern.networks.finetune import TernWithTextEncoder
from tern.networks.kaylode import KaylodeTern
from tern.networks.paper import PaperTern
from tern.networks.teran import Teran
from tern.networks.vse_infinity import VseInfinity

NETWORKS: dict[str, Any] = {
    "default": Tern, "paper": PaperTern, "kaylode": KaylodeTern, "vse-infinity": VseInfinity,
    "teran": Teran,
}  # fmt: skip


def build_trainable(config: ModelConfig, region_dim: int, token_dim: int, text: nn.Module | None = None) -> nn.Module:
    """Build the network of a configuration, with a text encoder if one is passed.

    Args:
        config: Shape of the network.
        region_dim: Features per region.
        token_dim: Features per token.
        text: Text encoder that is trained too: (ids (b, l) int64, mask (b, l) bool) -> (b, l, token_dim).

    Returns:
        The network with random initial weights.
    """
    tern = build_model(config, region_dim, token_dim)
    return tern if text is None else TernWithTextEncoder(tern, text)


def build_model(config: ModelConfig, region_dim: int, token_dim: int) -> nn.Module:
    """Build the network of `config.architecture`, with the methods of `Tern` and random weights.

    Args:
        config: Settings of the architecture.
        region_dim: Features per region, as extracted.
        token_dim: Features per token, as extracted.
    """
    network: nn.Module = NETWORKS[config.architecture](config, region_dim, token_dim)
    return network
