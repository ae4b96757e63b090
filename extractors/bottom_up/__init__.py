"""The Visual-Genome bottom-up model (Anderson et al. 2018), as Caffe computes it, in torch and torchvision."""

from extractors.bottom_up.weights import convert_weights

__all__ = [
    "convert_weights",
]
