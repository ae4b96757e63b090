"""Write versions of an index: full builds, updates by delta shards, compaction, and publication behind the gate.

In: collections of vectors and metadata. Out: the path of a published manifest. It is independent of models and
datasets.
"""

from index.building.build import build_index
from index.building.compact import compact_index, find_due_maintenance
from index.building.publish import GateFn, override_gate
from index.building.update import IncompatibleUpdateError, update_index

__all__ = [
    "GateFn",
    "IncompatibleUpdateError",
    "build_index",
    "compact_index",
    "find_due_maintenance",
    "override_gate",
    "update_index",
]
