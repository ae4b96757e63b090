"""Row vectors of a collection in builds and updates: their entry in the manifest, and what an update cannot change."""

from index.collection import IndexInputs
from index.config import IndexConfig
from index.versions.manifest import AlignmentInfo, CollectionManifest


def make_alignment(kind: str, inputs: IndexInputs) -> AlignmentInfo | None:
    """Describe the row vectors of a collection; None if it has none.

    Raises:
        ValueError: The weight is not from 0 to 1, or the row vectors of the queries have another dimension.
    """
    collection = inputs.collections[kind]
    if collection.rows is None:
        return None
    if not 0 <= inputs.alignment_weight <= 1:  # also NaN
        raise ValueError(f"The alignment weight is {inputs.alignment_weight}. Pass a number from 0 to 1.")
    query_rows = inputs.query_rows.get(kind)
    num_queries = len(inputs.queries.get(kind, ()))
    if query_rows is not None and (query_rows.dim, len(query_rows)) != (collection.row_dim, num_queries):
        raise ValueError(
            f"The row vectors of {len(query_rows)} queries for {kind!r} have {query_rows.dim} numbers, but there are "
            f"{num_queries} queries, and those of the collection have {collection.row_dim} numbers. Embed both with "
            "one model."
        )
    return AlignmentInfo(dim=collection.row_dim, alignment_weight=float(inputs.alignment_weight))


def find_alignment_difference(kind: str, manifest: CollectionManifest, inputs: IndexInputs) -> str:
    """Say what makes the row vectors of an update and those of a version different; "" if they belong together."""
    old, new = manifest.alignment, make_alignment(kind, inputs)
    if old == new:
        return ""
    words = ["none" if one is None else f"{one.dim} numbers, weight {one.alignment_weight:g}" for one in (old, new)]
    return f"The {kind} row vectors of the published version are {words[0]}; those of the update are {words[1]}."


def set_rerank(manifest: CollectionManifest, config: IndexConfig) -> CollectionManifest:
    """Return a collection whose searches rerank as many hits as the settings say: none without row vectors."""
    rerank = 0 if manifest.alignment is None else config.rerank
    return manifest.model_copy(update={"search": manifest.search.model_copy(update={"rerank": rerank})})
