"""Origin of `pipeline`."""

from index.search import Index


def read_provenance(index: Index) -> dict[str, str]:
    """Names of the model and the stores that an index is of. Raises ValueError if its vectors came from elsewhere."""
    names = index.manifest.provenance
    if not {"model", "regions", "tokens"} <= names.keys():
        raise ValueError(
            f"version {index.version} of {index.root} was not made by a plan: nothing says of which model its vectors "
            "are. Build one with `tern index`."
        )
    return names
