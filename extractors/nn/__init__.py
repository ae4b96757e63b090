"""Sub-package `extractors.nn`."""

from extractors.nn.state_dict import read_safetensors_metadata

__all__ = [
    "read_safetensors_metadata",
]
