"""Index stage: publish the vectors of a model, with metadata, as a version of the index."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.datasets import Dataset
from data.store import Store
from index.building import IncompatibleUpdateError, build_index, compact_index, find_due_maintenance, update_index
from index.collection import Collection, IndexInputs
from index.config import GateConfig, IndexConfig, Kind, MaintenanceConfig
from index.quality import GateQueries, make_gate
from index.search import Index
from index.versions import read_version_manifest
from pipeline.origin import Origin, read_origin
from pipeline.stages.index_rows import make_collection, read_image_sizes
from pipeline.stages.queries import KindStores, choose_queries
from pipeline.stages.results import VectorStores
from pipeline.workspace import Workspace
from tern.query import read_calibration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSource:
    """Everything that an index is built from."""

    vectors: VectorStores
    dataset: Dataset
    """Valid dataset; its texts, paths and splits become metadata."""
    origin: Origin | None = None
    """Names of the model and the stores; None if the vectors do not come from a plan."""
    regions: Path | None = None
    """Region store with the image sizes, for filters over width and height; None leaves the sizes unknown."""


def publish_full_index(
    source: IndexSource, config: IndexConfig, workspace: Workspace, gate: GateConfig | None = None
) -> Path:
    """Build an index over all vectors and publish it as a new version.

    Recall is measured with queries of the other kind where there are some: captions search images, and images search
    captions (see `choose_queries`).

    Args:
        source: What the index is built from.
        config: Settings of the index.
        workspace: Workspace that contains the index.
        gate: Settings of the quality gate; None publishes without a gate.

    Returns:
        The manifest of the version.

    Raises:
        RejectedError: The version did not pass the gate. It is kept, and the served version stays served.
    """
    inputs, queries = _make_inputs(source, config, workspace)
    gate_fn = None if gate is None else make_gate(gate, queries, inputs.collections, config)
    return build_index(config, inputs, workspace.index, gate=gate_fn)


def publish_index_update(
    source: IndexSource,
    config: IndexConfig,
    workspace: Workspace,
    gate: GateConfig | None = None,
    *,
    maintenance: MaintenanceConfig,
    version: int | None = None,
    allow_full_build: bool = False,
    on_message: Callable[[str], None] = log.info,
) -> Path:
    """Publish a version with delta shards for all new, changed and removed items.

    Then run maintenance if it is due.

    Args:
        source: What the index is built from.
        config: Settings of the index.
        workspace: Workspace that contains the index.
        gate: Settings of the quality gate; None publishes without a gate.
        maintenance: Thresholds for compaction, and for retraining the centroids, which is a full build.
        version: Version to update; the published one if None.
        allow_full_build: Build the index from scratch where a delta is impossible: with another model, with other
            settings, or without a published version.
        on_message: Called with a line of text when more than a delta is built, with the reason.

    Returns:
        The manifest of the version.

    Raises:
        IncompatibleUpdateError: A delta is impossible, and `allow_full_build` is False.
        FileNotFoundError: No version is published, and `allow_full_build` is False.
        RejectedError: The version did not pass the gate. It is kept, and the served version stays served.
    """
    root, (inputs, queries) = workspace.index, _make_inputs(source, config, workspace)
    gate_fn = None if gate is None else make_gate(gate, queries, inputs.collections, config)
    try:
        path = update_index(config, inputs, root, gate=gate_fn, version=version)
    except (IncompatibleUpdateError, FileNotFoundError) as error:
        if not allow_full_build:
            raise
        on_message(f"index: full build, because a delta is impossible: {error}")
        return build_index(config, inputs, root, gate=gate_fn)
    due = find_due_maintenance(read_version_manifest(root), maintenance)
    if due is None:
        return path
    action, reason = due
    on_message(f"index: {action}, because {reason}")
    if action == "compact":
        return compact_index(root, gate=gate_fn)
    return build_index(config, inputs, root, gate=gate_fn)


def find_served_version(workspace: Workspace, version: int | None = None) -> tuple[Path, Path]:
    """Find the manifest of a version, and the folder of the model that its vectors were computed with.

    Args:
        workspace: Workspace that contains the index.
        version: Number of the version; the published one if None.

    Raises:
        FileNotFoundError: The version does not exist, or no version is published.
        ValueError: The version was not built from a plan.
    """
    with Index.open(workspace.index, version) as index:
        return index.path, workspace.models / read_origin(index).model


def _make_inputs(
    source: IndexSource, config: IndexConfig, workspace: Workspace
) -> tuple[IndexInputs, dict[str, GateQueries]]:
    """Return what is indexed, and the queries of the gate with their relevant items.

    A dataset without captions has only a collection of images.
    """
    dataset, sizes = source.dataset, read_image_sizes(source.regions, source.dataset)
    vectors = source.vectors
    stores: dict[Kind, KindStores] = {
        "image": _open_stores(vectors.images, vectors.image_rows),
        "caption": _open_stores(vectors.captions, vectors.caption_rows),
    }
    model = None if source.origin is None else workspace.models / source.origin.model
    calibration = None if model is None else read_calibration(model)
    collections: dict[str, Collection] = {}
    queries: dict[str, GateQueries] = {}
    for kind, store in stores.items():
        collection = make_collection(dataset, store.vectors, kind, sizes, store.rows)
        if collection.ids:
            queries[kind] = choose_queries(kind, collection, dataset, stores, calibration, config)
        if collection.ids or kind == "image":  # an empty collection of images is an error of the build
            collections[kind] = collection
    return IndexInputs(
        collections,
        {kind: one.vectors for kind, one in queries.items()},
        {} if source.origin is None else source.origin.model_dump(),
        {kind: one.source for kind, one in queries.items()},
        {kind: labels for kind, one in queries.items() if (labels := one.labels) is not None},
        {kind: one.rows for kind, one in queries.items() if one.rows is not None},
        vectors.alignment_weight,
        columns=dataset.columns,
    ), queries


def _open_stores(vectors: Path, rows: Path | None) -> KindStores:
    return KindStores(Store(vectors), None if rows is None else Store(rows))
