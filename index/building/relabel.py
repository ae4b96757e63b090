"""Write new metadata for shards in which only columns of the user's own have changed; their vectors stay."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.ivf.vectors import is_in_sorted
from index.metadata.arrow_schema import SCHEMA
from index.metadata.tables import write_lookup, write_parquet
from index.versions.manifest import ShardManifest
from index.versions.objects import Staging, check_object


def relabel_shards(
    staging: Staging, kind: str, shards: Sequence[ShardManifest], columns_by_key: Mapping[int, str | None]
) -> list[ShardManifest]:
    """Return shards whose rows have new columns. A shard without such a row stays as it is.

    Args:
        staging: Staging folder of the update.
        kind: Kind of the collection.
        shards: Shards of the version to update.
        columns_by_key: New value of `Row.columns` by key.
    """
    if not columns_by_key:
        return list(shards)
    keys = np.array(sorted(columns_by_key), np.int64)
    return [
        _relabel_shard(staging, f"{kind}/columns-{i}", shard, keys, columns_by_key) for i, shard in enumerate(shards)
    ]


def _relabel_shard(
    staging: Staging,
    name: str,
    shard: ShardManifest,
    keys: np.ndarray,
    columns_by_key: Mapping[int, str | None],
) -> ShardManifest:
    rows = pq.read_table(check_object(staging.root, shard.metadata, f"metadata of {name}"), schema=SCHEMA)
    row_keys = rows["key"].to_numpy()
    if not is_in_sorted(row_keys, keys).any():
        return shard
    stored = zip(row_keys.tolist(), rows["columns"].to_pylist(), strict=True)
    columns = pa.array([columns_by_key.get(key, text) for key, text in stored], pa.string())
    table = rows.set_column(SCHEMA.get_field_index("columns"), SCHEMA.field("columns"), columns)

    def make() -> ShardManifest:
        update = {
            "metadata": staging.add_object(f"{name}.parquet", lambda path: write_parquet(path, table)),
            "lookup": staging.add_object(f"{name}.sqlite", lambda path: write_lookup(path, table)),
        }
        return shard.model_copy(update=update)

    return staging.run_step(name, ShardManifest, make)
