"""Images become bottom-up features (Anderson et al. 2018) as Caffe computes them; also converts published weights."""

from extractors.bottom_up.weights import convert_weights

__all__ = [
    "convert_weights",
]
