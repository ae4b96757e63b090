"""Export of the query side of a model to ONNX: its graphs without weights, and the record that names the weights.

Shapes: n captions, b images, l tokens, r regions, d features, e embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.alignment import Embeddings
from data.io import atomic_write, sha256_file
from data.onnx import open_session
from tern.batching.pad import pad_captions, pad_images
from tern.card import CAPTIONS_GRAPH, IMAGES_GRAPH, TOKENIZER
from tern.model.embed import caption_field
from tern.model.graph_export import GraphSignature, export_graph, index_tensors
from tern.networks.alignment import Encoding, encode_captions, encode_images
from tern.networks.inputs import ImageBatch
from tern.query import (
    TEXT_SOURCE,
    GraphRecord,
    QueryRecord,
    TextModelRecord,
    list_outputs,
    read_outputs,
    read_tensors,
    run_graph,
    write_query_record,
)

Dims = Mapping[str, tuple[str, ...]]
MAX_ERROR = 1e-5  # of a number of a vector, to that of torch
CAPTION_DIMS: Dims = {"token_ids": ("n", "l"), "mask": ("n", "l")}
IMAGE_DIMS: Dims = {
    "features": ("b", "r"),
    "boxes": ("b", "r"),
    "sizes": ("b",),
    "mask": ("b", "r"),
    "scores": ("b", "r"),
}


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
    has_tokenizer_file: bool
    """Whether a file tokenizer.json in `folder` has these rules."""
    max_tokens: int
    """Maximum number of tokens of a text."""
    unknown_id: int | None
    """Token id of what the tokenizer does not know."""
    num_tokens: int
    """Size of the vocabulary."""


class CaptionNetwork(nn.Module):
    """Token ids to vectors, row vectors and their weights.

    Unlike those of a store, the features of tokens are not rounded to float16. Rounding would turn differences in the
    last bits, between two libraries, into larger ones.

    Args:
        model: The model.
        encoder: Text encoder; None for a model that has one of its own.
    """

    def __init__(self, model: Any, encoder: nn.Module | None) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder

    def forward(self, token_ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of the graph (`list_outputs`): token_ids (n, l) int64, mask (n, l) bool."""
        inputs = token_ids if self.encoder is None else self.encoder(token_ids, mask)
        return _list_tensors(encode_captions(self.model, inputs, mask))


@torch.inference_mode()
def embed_token_ids(network: CaptionNetwork, captions: Sequence[Sequence[int]]) -> Embeddings:
    """Embed captions in torch from the token ids of each, from [CLS] to [SEP]."""
    lengths = np.array([len(ids) for ids in captions], np.int64)
    batch = pad_captions(np.concatenate([np.asarray(ids, np.int64) for ids in captions]), lengths)
    outputs = [part.numpy() for part in network(batch.features, batch.mask)]
    return read_outputs(outputs, batch.mask.numpy())


def _list_tensors(encoding: Encoding) -> tuple[Tensor, ...]:
    """Return the outputs of a graph, in the order of `list_outputs`."""
    rows = () if encoding.rows is None else (encoding.rows.vectors, encoding.rows.weights)
    return encoding.vectors, *rows


class _ImageGraph(nn.Module):
    """Rows of regions to vectors, row vectors and their weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, features: Tensor, boxes: Tensor, sizes: Tensor, mask: Tensor, scores: Tensor
    ) -> tuple[Tensor, ...]:
        return _list_tensors(encode_images(self.model, ImageBatch(features.float(), boxes, sizes, mask, scores)))


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
    known = index_tensors(paths)
    graphs = {
        CAPTIONS_GRAPH: (captions, _draw_captions(text), CAPTION_DIMS),
        IMAGES_GRAPH: (_ImageGraph(model), _draw_images(model.region_dim), IMAGE_DIMS),
    }
    records = {}
    for name, (module, samples, dims) in graphs.items():
        outputs = list_outputs(dims["mask"], model.config.alignment_dim)
        content, tensors = export_graph(module.eval(), samples[0], GraphSignature(dims, outputs), known)
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
        tokenizer_sha256=sha256_file((text.folder if text.has_tokenizer_file else folder) / TOKENIZER),
        max_tokens=text.max_tokens,
        unknown_id=text.unknown_id,
        region_dim=model.region_dim,
        embed_dim=model.config.embed_dim,
        alignment_dim=model.config.alignment_dim,
    )
    write_query_record(folder, record)
    return record


def _draw_captions(text: TextModel) -> list[dict[str, Tensor]]:
    """Draw batches of token ids with padding: more and fewer captions and lengths than the traced batch has."""
    draw = np.random.default_rng(0)
    batches = []
    for lengths in ([7, 3, 12], [5], [2, 2], [min(text.max_tokens, 64), 9, 4, 6, 2, 9, 3]):
        ids = draw.integers(0, text.num_tokens, (len(lengths), max(lengths)))
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        batches.append({"token_ids": torch.from_numpy(np.where(mask, ids, 0)), "mask": torch.from_numpy(mask)})
    return batches


def _draw_images(dim: int) -> list[dict[str, Tensor]]:
    """Draw batches of regions: more and fewer images and lengths than the traced batch, and images without scores."""
    draw = np.random.default_rng(0)
    batches = []
    for lengths in ([5, 2, 9], [36], [1, 1, 1, 1], [4, 4], [3, 7, 1, 8, 2, 11, 6, 7]):
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


@torch.inference_mode()
def _compare(
    name: str, module: nn.Module, samples: Sequence[dict[str, Tensor]], content: bytes, tensors: dict[str, np.ndarray]
) -> None:
    """Raise ValueError if a graph computes other numbers than torch."""
    session = open_session(content, tensors)
    for sample in samples:
        outputs = run_graph(session, {key: value.numpy() for key, value in sample.items()})
        for values, tensor in zip(outputs, module(**sample), strict=True):
            error = float(np.abs(values - tensor.numpy()).max())
            if not error <= MAX_ERROR:
                raise ValueError(f"{name} differs by {error:.2g} from torch on inputs of {len(values)} items")
