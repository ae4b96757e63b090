"""The Arrow schema of the metadata columns; pyarrow takes a tenth of a second to import, and a search needs none."""

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("path", pa.string()),
        pa.field("split", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("content_hash", pa.string()),
        pa.field("columns", pa.string()),
    ]
)
