"""Weights files become state dicts, and networks become fast at inference; independent of images or captions."""

from extractors.nn.state_dict import read_safetensors_metadata

__all__ = [
    "read_safetensors_metadata",
]
