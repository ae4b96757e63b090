"""Sub-package `index.exchange`."""

from index.exchange.export import export_index
from index.exchange.import_vectors import import_index

__all__ = [
    "export_index",
    "import_index",
]
