"""`QuerySide`: embeds token ids and regions with the exported graphs of a model.

Shapes: n captions, b images, l tokens, r regions, d features, e embedding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.batches import group_by_length
from data.io import sha256_file
from data.onnx import RUNTIME_VERSION, CachedGraph, open_mapped_session, open_session, write_optimized_graph
from tern.card import CAPTIONS_GRAPH, IMAGES_GRAPH
from tern.query.record import TEXT_SOURCE, GraphRecord, QueryRecord
from tern.query.weights import read_tensors

CACHE_VERSION = 1  # raise it when the optimized graphs change: their names contain it
CAPTIONS_PER_RUN, IMAGES_PER_RUN = 32, 64  # items of similar length that share a run and its padding
MAX_ROWS_PER_RUN = 1024  # of regions, with padding: 4 MB of 1,024 features each
ImageRegions = tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]
"""Features (r, d), boxes (r, 4) in pixels, (width, height) in pixels, and scores (r,) of the regions of one image."""


class QuerySide:
    """The exported graphs of a model, each opened at its first use. Safe to share between threads.

    Args:
        folder: Folder of the model, or of a model package.
        record: Its record.
        find_text_folder: Returns the folder of the text model of a name; it may raise an error.
        num_threads: Threads of one run.
        is_resident: Whether many queries will follow, so that arranging the weights pays.
    """

    def __init__(
        self,
        folder: Path,
        record: QueryRecord,
        find_text_folder: Callable[[str], Path],
        num_threads: int = 1,
        is_resident: bool = False,
    ) -> None:
        self.folder, self.record = Path(folder), record
        self._find_text_folder, self._num_threads, self._is_resident = find_text_folder, num_threads, is_resident
        self._lock = threading.Lock()
        self._sessions: dict[str, Any] = {}

    def embed_token_ids(self, captions: Sequence[Sequence[int]]) -> np.ndarray:
        """Embed captions.

        Args:
            captions: Token ids of each caption, from [CLS] to [SEP].

        Returns:
            (n, e) float32 of unit length.

        Raises:
            ValueError: A file of the query side is damaged, or the text model is another one.
            FileNotFoundError: The text model is not on this machine.
        """
        session = self.open_captions()
        vectors = np.empty((len(captions), self.record.embed_dim), np.float32)
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        for start in range(0, len(order), CAPTIONS_PER_RUN):
            members = order[start : start + CAPTIONS_PER_RUN]
            lengths = np.array([len(captions[i]) for i in members])
            mask = np.arange(lengths.max()) < lengths[:, None]
            token_ids = np.zeros(mask.shape, np.int64)
            token_ids[mask] = np.concatenate([captions[i] for i in members])
            vectors[members] = run_graph(session, {"token_ids": token_ids, "mask": mask})
        return vectors

    def embed_images(self, images: Sequence[ImageRegions], in_single_runs: bool = False) -> np.ndarray:
        """Embed images whose regions are known.

        Images with equal numbers of regions share a run, which changes the last bits of their vectors.

        Args:
            images: Regions of each image; features are rounded to float16, as those of a store are.
            in_single_runs: Whether each image has a run of its own, so that its vector depends on nothing else.

        Returns:
            (b, e) float32 of unit length.

        Raises:
            ValueError: Features have another size than in training, or a file of the query side is damaged.
        """
        for features, *_ in images:
            if features.ndim != 2 or features.shape[1] != self.record.region_dim:
                raise ValueError(
                    f"region features have shape {features.shape}, but the model was trained on "
                    f"(n, {self.record.region_dim}). Extract them with the extractor of the model's store."
                )
        session = self.open_images()
        vectors = np.empty((len(images), self.record.embed_dim), np.float32)
        lengths = [max(1, len(features)) for features, *_ in images]
        longest = max(lengths, default=1)
        size = 1 if in_single_runs else max(1, min(IMAGES_PER_RUN, MAX_ROWS_PER_RUN // longest))
        for members in group_by_length(lengths, size):
            vectors[members] = run_graph(session, _stack([images[i] for i in members]))
        return vectors

    def open_captions(self) -> Any:
        """Open the graph of captions now instead of at the first query. Returns its session."""
        return self._open("captions", self.record.captions, CAPTIONS_GRAPH)

    def open_images(self) -> Any:
        """Open the graph of images now. Returns its session."""
        return self._open("images", self.record.images, IMAGES_GRAPH)

    def _open(self, name: str, graph: GraphRecord, file: str) -> Any:
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._open_cached(name, graph, self.folder / file)
            return self._sessions[name]

    def _open_cached(self, name: str, graph: GraphRecord, path: Path) -> Any:
        """Open the optimized graph of the cache folder, which is written first if it is missing."""
        sources = {ref.file for ref in graph.tensors.values()}
        hashes = {
            source: self.record.text.sha256 if source == TEXT_SOURCE else self.record.files[source]
            for source in sorted(sources)
        }
        key = {"version": CACHE_VERSION, "graph": graph.sha256, "weights": hashes}
        key |= {"tensors": {name: ref.model_dump() for name, ref in graph.tensors.items()}}
        cached = CachedGraph(f"query-{name}", key | {"onnxruntime": RUNTIME_VERSION}, ".ort")
        if cached.find(rehash=self._is_resident) is None:
            content, paths = self._read_graph(graph, path), self._check_sources(hashes)
            tensors = read_tensors(graph.tensors, paths)
            try:
                cached.write(lambda temporary: write_optimized_graph(temporary, content, tensors))
            except (OSError, ValueError):  # a cache folder that cannot be written costs a second, not the answer
                return open_session(content, tensors, self._num_threads)
        return open_mapped_session(cached.path, self._num_threads, self._is_resident)

    def _read_graph(self, graph: GraphRecord, path: Path) -> bytes:
        if not path.is_file() or sha256_file(path) != graph.sha256:
            raise ValueError(f"{path} is missing or damaged. Delete {path.parent / 'query.json'} and run `tern index`.")
        return path.read_bytes()

    def _check_sources(self, hashes: dict[str, str]) -> dict[str, Path]:
        """Return the path of each file of weights, after a check of its bytes."""
        paths = {}
        for source, expected in hashes.items():
            text = self.record.text
            folder = self._find_text_folder(text.model) if source == TEXT_SOURCE else self.folder
            path = paths[source] = folder / (text.weights if source == TEXT_SOURCE else source)
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing, with the weights that queries need. Restore the file.")
            if sha256_file(path) != expected:
                raise ValueError(f"{path} has other weights than those that the model was trained with. Restore it.")
        return paths


def run_graph(session: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Run a graph: inputs by name -> (n, e) float32. A graph has no inputs that the network does not use."""
    names = {argument.name for argument in session.get_inputs()}
    vectors: np.ndarray = session.run(None, {name: value for name, value in inputs.items() if name in names})[0]
    return vectors


def _stack(images: Sequence[ImageRegions]) -> dict[str, np.ndarray]:
    """Stack images with equal numbers of regions into the inputs of the graph."""
    features, boxes, sizes, scores = zip(*images, strict=True)
    inputs: dict[str, np.ndarray] = {
        "features": np.stack(features).astype(np.float16),
        "boxes": np.stack(boxes).astype(np.float32),
        "sizes": np.array(sizes, np.float32),
        "mask": np.ones((len(images), len(features[0])), bool),
        "scores": np.stack(scores).astype(np.float32),
    }
    if not len(features[0]):  # attention needs a row; as `tern.batching.pad_rows` does it
        for name in ("features", "boxes", "mask", "scores"):
            shape = (len(images), 1, *inputs[name].shape[2:])
            inputs[name] = np.full(shape, name == "mask", inputs[name].dtype)
    return inputs
