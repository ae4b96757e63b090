"""Sub-package `index.building`."""

from index.building.build import build_index
from index.building.compact import compact_index, find_due_maintenance
from index.building.publish import override_gate
from index.building.update import IncompatibleUpdateError, update_index

__all__ = [
    "IncompatibleUpdateError",
    "build_index",
    "compact_index",
    "find_due_maintenance",
    "override_gate",
    "update_index",
]
