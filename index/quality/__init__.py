"""Quality of a version: audit of its files, copies among its images, and the gate that measures a candidate.

In: an open version, its source vectors and held-out queries. Out: a verdict, or groups of copies. It publishes nothing.
"""

from index.quality.audit import audit_version
from index.quality.checks import GateQueries
from index.quality.duplicates import Duplicate, DuplicateGroup, find_duplicates
from index.quality.gate import make_gate

__all__ = [
    "Duplicate",
    "DuplicateGroup",
    "GateQueries",
    "audit_version",
    "find_duplicates",
    "make_gate",
]
