"""Cost of an update of a published index, compared with a full build: CPU seconds of one run on one thread."""

from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from index.building.build import build_index
from index.building.compact import compact_index, measure_drift
from index.building.update import update_index
from index.collection import IndexInputs
from index.config import GateConfig, IndexConfig
from index.quality.checks import GateQueries
from index.quality.gate import make_gate
from index.versions.folder import read_version_manifest
from index.versions.objects import _cached_sha256
from index.versions.switch import verify_version
from tests.bench.common import cpu_of
from tests.bench.index.rivals import DIM, ROWS, collection, draw

ADDED, QUERIES = ROWS // 100, 400


def index_update(folder: Path) -> None:
    """Measure a build over 100,000 rows, updates (1 % added, 1 % changed, 1 % removed) and a compaction."""
    faiss.omp_set_num_threads(1)
    vectors, queries = draw(ROWS + ADDED, DIM, QUERIES)
    vectors, config = vectors.astype(np.float16), IndexConfig()
    everything = np.arange(ROWS + ADDED)
    steps = (
        (f"{ADDED:,} rows added", collection(vectors, everything)),
        (f"{ADDED:,} rows changed", collection(vectors, everything, ADDED)),
        (f"{ADDED:,} rows removed", collection(vectors, everything[:-ADDED], ADDED)),
    )
    original = collection(vectors, everything[:-ADDED])
    table = Table("what", "CPU s", "of the build", title=f"index, {ROWS:,} x {DIM}", title_justify="left")
    judge = lambda source: make_gate(GateConfig(), {"image": GateQueries(queries["text"])}, {"image": source})  # noqa: E731
    for gated, root in (("", folder / "plain"), (", with the gate", folder / "gated")):
        gate = judge if gated else lambda source: None
        inputs = IndexInputs({"image": original}, {"image": queries["text"]})
        build_seconds, _ = cpu_of(lambda: build_index(config, inputs, root, gate=gate(original)))  # noqa: B023
        table.add_row(f"build, {config.shards} shards{gated}", f"{build_seconds:.2f}", "100 %")
        for name, changed in steps:
            _cached_sha256.cache_clear()  # as in a process of its own
            seconds, _ = cpu_of(lambda: update_index(config, IndexInputs({"image": changed}), root, gate=gate(changed)))  # noqa: B023
            drift = measure_drift(read_version_manifest(root).collections["image"])
            table.add_row(
                f"update, {name}{gated}", f"{seconds:.2f}", f"{100 * seconds / build_seconds:.1f} %, drift {drift:.3f}"
            )
        seconds, _ = cpu_of(lambda: compact_index(root, gate=gate(steps[-1][1])))  # noqa: B023
        table.add_row(f"compaction{gated}", f"{seconds:.2f}", f"{100 * seconds / build_seconds:.1f} %")
        verify_version(root)
    Console().print(table)
