"""Origin of an index: the model and the feature stores that its vectors were computed from."""

from pydantic import BaseModel, ConfigDict, ValidationError

from index.search import Index


class Origin(BaseModel):
    """Names of what an index was built from. The index stores them as its provenance.

    Attributes:
        model: Name of the model, which is the name of its folder.
        regions: Name of the region store: `regions-` and the digest of its recipe.
        tokens: Name of the token store: `tokens-` and the digest of its recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    regions: str
    tokens: str


def read_origin(index: Index) -> Origin:
    """Read the origin of an index.

    Raises:
        ValueError: The index was built by something else than a plan, so the model of its vectors is unknown.
    """
    try:
        return Origin.model_validate(index.manifest.provenance)
    except ValidationError:
        raise ValueError(
            f"Version {index.version} of {index.root} was not built from a plan, so the model of its vectors is "
            "unknown. Build an index with `tern index`."
        ) from None
