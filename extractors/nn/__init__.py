"""Weights files become state dicts, and networks become fast at inference; independent of images or captions."""

from extractors.config import machine_independent
from extractors.nn.state_dict import parse_names, read_safetensors_metadata

__all__ = [
    "machine_independent",
    "parse_names",
    "read_safetensors_metadata",
]
