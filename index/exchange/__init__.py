"""Exchange of vectors with other programs: export a version as plain files, import folders of vectors as an index.

In: an index folder, or .npy and Parquet files. Out: FAISS, .npy and Parquet files, or a published manifest. It is
independent of models and datasets.
"""

from index.exchange.export import export_index
from index.exchange.import_vectors import ImportOptions, import_index

__all__ = [
    "ImportOptions",
    "export_index",
    "import_index",
]
