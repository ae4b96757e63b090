"""The version after a version: its settings and its provenance with other collections."""

from collections.abc import Mapping

from data.config import ColumnType
from index.ivf.faiss_io import FAISS_VERSION
from index.versions.manifest import Candidate, CollectionManifest, Manifest


def make_successor(
    parent: Manifest,
    inputs_digest: str,
    collections: Mapping[str, CollectionManifest],
    rerank: int | None = None,
    columns: Mapping[str, ColumnType] | None = None,
) -> Candidate:
    """Return a candidate with the settings and the provenance of its parent.

    Args:
        inputs_digest: Digest of its inputs.
        collections: By kind, its manifests.
        rerank: The setting `rerank`, which an update may change; None: that of the parent.
        columns: Types of the columns of the user's own; None: those of the parent.
    """
    config = parent.config if rerank is None else {**parent.config, "rerank": rerank}
    update = {
        "config": config,
        "inputs_digest": inputs_digest,
        "faiss": FAISS_VERSION,
        "collections": dict(collections),
        "columns": dict(parent.columns if columns is None else columns),
    }
    return Candidate(**dict(parent.candidate()) | update)
