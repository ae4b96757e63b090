"""Full build of an index version: per collection one trained quantizer and `shards` base shards."""

import json
from pathlib import Path
from typing import Any

from data.io import digest
from index.building.collection_build import prepare_builds
from index.building.publish import GateFn, OnStep, build_and_publish, no_progress
from index.collection import IndexInputs
from index.config import IndexConfig
from index.ivf import faiss_io
from index.versions.index_folder import check_index_target, index_write_lock
from index.versions.manifest import SCHEMA_VERSION, Candidate
from index.versions.objects import Staging
from index.versions.switch import IMPORTED, check_same_origin


def build_index(
    config: IndexConfig,
    inputs: IndexInputs,
    root: Path,
    on_step: OnStep = no_progress,
    gate: GateFn | None = None,
) -> Path:
    """Build an index version under `root`, publish it, and return the path of its manifest.

    Equal inputs give equal bytes, in any order of ids. If a version of equal inputs exists and verifies, it is
    published and nothing is built. An interrupted build resumes.

    Args:
        on_step: Called with the name of each finished step.
        gate: Judges the version before it is published; None: it is not judged.

    Raises:
        ValueError: An item cannot be indexed (the message names the first), or `root` holds something else.
        RejectedError: The gate rejects the version: it is kept, and the served version does not change.
    """
    faiss_io.check_single_faiss_wheel()
    check_index_target(Path(root))
    check_same_origin(Path(root), IMPORTED in inputs.provenance)
    inputs.check_kinds()
    builds = prepare_builds(config, inputs)
    candidate = Candidate(
        inputs_digest="",
        faiss=faiss_io.FAISS_VERSION,
        config=config.model_dump(mode="json"),
        provenance=check_json_plain(dict(inputs.provenance)),
        collections={},
        columns=dict(inputs.columns),
    )
    facts = {"schema": SCHEMA_VERSION, "built": {kind: build.facts for kind, build in builds.items()}}
    candidate = candidate.model_copy(update={"inputs_digest": digest(facts | candidate.model_dump())})

    def make(staging: Staging) -> Candidate:
        collections = {kind: build.run(staging, on_step, candidate.provenance) for kind, build in builds.items()}
        return candidate.model_copy(update={"collections": collections})

    root = Path(root)
    with index_write_lock(root, create=True):
        return build_and_publish(root, candidate.inputs_digest, make, gate, on_step)


def check_json_plain(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance as it is read back from JSON.

    Raises:
        ValueError: JSON cannot represent it; this is checked before the build, not after it.
    """
    try:
        return json.loads(json.dumps(provenance, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The provenance {provenance!r} cannot be written as JSON: {error}. Pass strings and numbers."
        ) from error
