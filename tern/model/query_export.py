"""Export of the query side of a model to ONNX: its graphs without weights, and the record that names the weights.

Shapes: n captions, b images, l tokens, r regions, d features, e embedding.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors import safe_open
from torch import Tensor, nn

from data.io import atomic_write, sha256_file
from data.onnx import OPSET, open_session
from tern.batching.pad import pad_captions, pad_images
from tern.model.embed import caption_field
from tern.networks.inputs import ImageBatch
from tern.query import (
    CAPTIONS_GRAPH,
    IMAGES_GRAPH,
    TEXT_SOURCE,
    TOKENIZER,
    GraphRecord,
    QueryRecord,
    TensorRef,
    TextModelRecord,
    read_tensors,
    write_query_record,
)

MAX_ERROR = 1e-5  # of a number of a vector, to that of torch
MIN_TENSOR_BYTES = 1024  # smaller tensors stay in the graph
SHARED_DIMS = {"token_ids": ("n", "l"), "mask": ("n", "l")}
IMAGE_DIMS = {"features": ("b", "r"), "boxes": ("b", "r"), "sizes": ("b",), "mask": ("b", "r"), "scores": ("b", "r")}


@dataclass(frozen=True)
class TextModel:
    """The text model that a model reads features of, with what queries need of its tokenizer."""

    encoder: nn.Module
    """(ids (n, l) int64, mask (n, l) bool) -> (n, l, d); not used by a model that has a text encoder of its own."""
    name: str
    """Name or folder, as `text.model` of a plan."""
    folder: Path
    """Folder of its files."""
    weights: str
    """Name of the file of its weights."""
    tokenizer_rules: str
    """JSON of the tokenizer."""
    tokenizer_sha256: str
    """SHA-256 of the rules."""
    has_tokenizer_file: bool
    """Whether a file tokenizer.json in `folder` has these rules."""
    max_tokens: int
    """Maximum number of tokens of a text."""
    unknown_id: int | None
    """Token id of what the tokenizer does not know."""
    num_tokens: int
    """Size of the vocabulary."""


class CaptionNetwork(nn.Module):
    """Token ids to vectors. Unlike those of a store, the features of tokens are not rounded to float16.

    Rounding would turn differences in the last bits, between two libraries, into larger ones.

    Args:
        model: The model.
        encoder: Text encoder; None for a model that has one of its own.
    """

    def __init__(self, model: Any, encoder: nn.Module | None) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Compute unit vectors: token_ids (n, l) int64, mask (n, l) bool -> (n, e)."""
        if self.encoder is None:
            vectors: Tensor = self.model.embed_captions(token_ids, mask)
        else:
            vectors = self.model.embed_captions(self.encoder(token_ids, mask), mask)
        return vectors


@torch.inference_mode()
def embed_token_ids(network: CaptionNetwork, captions: Sequence[Sequence[int]]) -> np.ndarray:
    """Embed captions in torch: token ids of each, from [CLS] to [SEP] -> (n, e) float32 of unit length."""
    lengths = np.array([len(ids) for ids in captions], np.int64)
    batch = pad_captions(np.concatenate([np.asarray(ids, np.int64) for ids in captions]), lengths)
    vectors: np.ndarray = network(batch.features, batch.mask).numpy()
    return vectors


class _ImageGraph(nn.Module):
    """Rows of regions to vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, boxes: Tensor, sizes: Tensor, mask: Tensor, scores: Tensor) -> Tensor:
        vectors: Tensor = self.model.embed_images(ImageBatch(features.float(), boxes, sizes, mask, scores))
        return vectors


def export_query_side(folder: Path, model: Any, text: TextModel, weights: Sequence[str]) -> QueryRecord:
    """Write the query side of a model into its folder, or into the folder of a model package.

    Args:
        folder: The folder; it holds the files of weights.
        model: The model on the CPU in eval mode, with the weights of these files.
        text: Its text model.
        weights: Names of the files of weights of the model.

    Returns:
        The record.

    Raises:
        ValueError: A graph cannot be exported, or it computes other vectors than the model.
    """
    is_fine_tuned = caption_field(model) == "token_ids"
    captions = CaptionNetwork(model, None if is_fine_tuned else text.encoder)
    paths = {name: folder / name for name in weights}
    if not is_fine_tuned:
        paths[TEXT_SOURCE] = text.folder / text.weights
    known = _index_tensors(paths)
    graphs = {
        CAPTIONS_GRAPH: (captions, _draw_captions(text), SHARED_DIMS),
        IMAGES_GRAPH: (_ImageGraph(model), _draw_images(model.region_dim), IMAGE_DIMS),
    }
    records = {}
    for name, (module, samples, dims) in graphs.items():
        content, tensors = _export(module.eval(), samples[0], dims, known)
        _compare(name, module, samples, content, read_tensors(tensors, paths))
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)
        records[name] = GraphRecord(sha256=hashlib.sha256(content).hexdigest(), tensors=tensors)
    if not text.has_tokenizer_file:
        with atomic_write(folder / TOKENIZER) as temporary:
            temporary.write_text(text.tokenizer_rules, encoding="utf-8")
    record = QueryRecord(
        captions=records[CAPTIONS_GRAPH],
        images=records[IMAGES_GRAPH],
        files={name: sha256_file(folder / name) for name in weights},
        text=TextModelRecord(model=text.name, weights=text.weights, sha256=sha256_file(text.folder / text.weights)),
        tokenizer_sha256=text.tokenizer_sha256,
        max_tokens=text.max_tokens,
        unknown_id=text.unknown_id,
        region_dim=model.region_dim,
        embed_dim=model.config.embed_dim,
    )
    write_query_record(folder, record)
    return record


def _draw_captions(text: TextModel) -> list[dict[str, Tensor]]:
    """Draw batches of token ids with padding: a single caption, some, and one of the maximum length."""
    draw = np.random.default_rng(0)
    batches = []
    for lengths in ([7, 3, 12], [5], [2, 2], [min(text.max_tokens, 64), 4]):
        ids = draw.integers(0, text.num_tokens, (len(lengths), max(lengths)))
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        batches.append({"token_ids": torch.from_numpy(np.where(mask, ids, 0)), "mask": torch.from_numpy(mask)})
    return batches


def _draw_images(dim: int) -> list[dict[str, Tensor]]:
    """Draw batches of regions: some images, one, single regions, and images without scores."""
    draw = np.random.default_rng(0)
    batches = []
    for lengths in ([5, 2, 9], [36], [1, 1, 1, 1], [4, 4]):
        total, corners = sum(lengths), draw.uniform(0, 100, (sum(lengths), 2))
        boxes = np.hstack([corners, corners + draw.uniform(1, 200, (total, 2))]).astype(np.float32)
        features = draw.standard_normal((total, dim)).astype(np.float16)
        scores = draw.uniform(0, 1, total).astype(np.float32) * (len(lengths) != 2)
        batch = pad_images(features, boxes, np.full((len(lengths), 2), 320.0), scores, np.array(lengths))
        assert batch.scores is not None
        batches.append(
            {
                "features": batch.features.half(),
                "boxes": batch.boxes,
                "sizes": batch.sizes,
                "mask": batch.mask,
                "scores": batch.scores,
            }
        )
    return batches


def _index_tensors(paths: Mapping[str, Path]) -> dict[str, TensorRef]:
    """Map the SHA-256 of the values of each tensor in some files, in float32, to its place."""
    refs: dict[str, TensorRef] = {}
    for file, path in paths.items():
        with safe_open(path, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # it is no mapping
                refs.setdefault(_hash_values(tensors.get_tensor(name)), TensorRef(file=file, name=name))
    return refs


def _hash_values(array: np.ndarray) -> str:
    values = array.astype(np.float32) if array.dtype == np.float16 else array
    return hashlib.sha256(f"{values.dtype} {values.shape} ".encode() + values.tobytes()).hexdigest()


def _export(
    module: nn.Module, sample: dict[str, Tensor], dims: Mapping[str, tuple[str, ...]], known: Mapping[str, TensorRef]
) -> tuple[bytes, dict[str, TensorRef]]:
    """Export a module to ONNX. Returns the graph without the tensors that files have, and their places."""
    buffer = io.BytesIO()
    axes = {name: dict(enumerate(names)) for name, names in dims.items()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants in the trace; the comparison decides
        try:
            torch.onnx.export(
                module,
                tuple(sample[name] for name in dims),
                buffer,
                dynamo=False,  # the other exporter needs onnxscript
                opset_version=OPSET,
                do_constant_folding=False,  # weights keep the values that their files have
                input_names=list(dims),
                output_names=["vectors"],
                dynamic_axes={**axes, "vectors": {0: next(iter(dims.values()))[0]}},
            )
        except Exception as error:  # the exporter raises any type for what it does not know
            raise ValueError(f"the network cannot be exported ({error})") from error
    graph = onnx.load_from_string(buffer.getvalue())
    tensors = _take_out_tensors(graph, known)
    _shorten_names(graph, set(tensors) | set(dims) | {"vectors"})
    return graph.SerializeToString(deterministic=True), tensors


def _take_out_tensors(graph: Any, known: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Take the values of initializers that files have out of a graph, in place. Returns their places by name."""
    tensors = {}
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        place = known.get(_hash_values(values)) if values.nbytes >= MIN_TENSOR_BYTES else None
        if place is None:
            continue
        tensors[tensor.name] = place
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", "0"), ("length", str(values.nbytes))):
            tensor.external_data.add(key=key, value=value)
    return tensors


def _shorten_names(graph: Any, kept: set[str]) -> None:
    """Replace the names of values and nodes, which are most of the size of a graph without weights, in place."""
    names: dict[str, str] = {}

    def shorten(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"v{len(names)}")

    if any(attribute.HasField("g") for node in graph.graph.node for attribute in node.attribute):
        return  # a subgraph uses names of the graph around it
    graph.graph.ClearField("value_info")
    for tensor in graph.graph.initializer:
        tensor.name = shorten(tensor.name)
    for node in graph.graph.node:
        node.name, node.doc_string = "", ""
        node.input[:] = [shorten(name) for name in node.input]
        node.output[:] = [shorten(name) for name in node.output]


@torch.inference_mode()
def _compare(
    name: str, module: nn.Module, samples: Sequence[dict[str, Tensor]], content: bytes, tensors: dict[str, np.ndarray]
) -> None:
    """Raise ValueError if a graph computes other vectors than torch."""
    session = open_session(content, tensors)
    for sample in samples:
        expected = module(**sample).numpy()
        vectors = session.run(None, {key: value.numpy() for key, value in sample.items()})[0]
        error = float(np.abs(vectors - expected).max())
        if not error <= MAX_ERROR:
            raise ValueError(f"{name} differs by {error:.2g} from torch on inputs of {len(expected)} items")
