"""Sub-package `index.quality`."""

from index.quality.audit import audit_version
from index.quality.checks import HeldOutQueries, format_check
from index.quality.gate import make_gate

__all__ = [
    "HeldOutQueries",
    "audit_version",
    "format_check",
    "make_gate",
]
