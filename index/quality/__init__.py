"""Quality of a version: audit of its files, and the gate that measures a candidate before it is published.

In: an open version, its source vectors and held-out queries. Out: a verdict. It publishes nothing.
"""

from index.quality.audit import audit_version
from index.quality.checks import GateQueries
from index.quality.gate import make_gate

__all__ = [
    "GateQueries",
    "audit_version",
    "make_gate",
]
