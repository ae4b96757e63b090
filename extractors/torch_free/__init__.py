"""What extracts without torch: tokenizers, network inputs, and backbones that ONNX Runtime runs on a CPU."""

from extractors.torch_free.backbone import INPUT, Graph, GraphCache, OnnxBackbone
from extractors.torch_free.image_fit import BackboneInfo, ImageFit
from extractors.torch_free.recipe import device_recipe, is_cpu, network_recipe
from extractors.torch_free.text_folder import find_text_folder
from extractors.torch_free.text_recipe import TEXT_VERSION, TextRecipeCache
from extractors.torch_free.tokenizer import Tokenizer, Word, hash_tokenizer, join_surrogates
from extractors.torch_free.weights_file import PHOTOS_MODEL, find_weights_file

__all__ = [
    "INPUT",
    "PHOTOS_MODEL",
    "TEXT_VERSION",
    "BackboneInfo",
    "Graph",
    "GraphCache",
    "ImageFit",
    "OnnxBackbone",
    "TextRecipeCache",
    "Tokenizer",
    "Word",
    "device_recipe",
    "find_text_folder",
    "find_weights_file",
    "hash_tokenizer",
    "is_cpu",
    "join_surrogates",
    "network_recipe",
]
