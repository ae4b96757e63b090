"""The kinds of region extractor there are: `kind` in a plan's [regions] says which; without it, "torchvision"."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Tag

from extractors.bottom_up.extractor import BottomUpConfig, BottomUpExtractor
from extractors.detectron import Detectron2Config, Detectron2Extractor
from extractors.faster_rcnn import TorchvisionConfig, TorchvisionExtractor
from extractors.grid import GridConfig, GridExtractor
from extractors.regions import RegionExtractor

# A new kind is its import and its line here. Each config has a `kind: Literal[...]` with that value as default.
KINDS: dict[type[BaseModel], type[RegionExtractor]] = {
    TorchvisionConfig: TorchvisionExtractor,
    GridConfig: GridExtractor,
    BottomUpConfig: BottomUpExtractor,
    Detectron2Config: Detectron2Extractor,
}


def _kind(given: Any) -> Any:
    """The kind of a config, or of the table that it is to be made from."""
    if isinstance(given, dict):
        return given.get("kind", TorchvisionConfig.model_fields["kind"].default)
    return getattr(given, "kind", None)


_TAGGED = [Annotated[config, Tag(config.model_fields["kind"].default)] for config in KINDS]
RegionsConfig = Annotated[reduce(or_, _TAGGED), Discriminator(_kind)]


def region_extractor(config: Any) -> RegionExtractor:
    """The extractor of one of the configs above, its weights loaded. Raises what loading them raises."""
    return KINDS[type(config)](config)


def recipe(extractor: RegionExtractor) -> dict[str, Any]:
    """The recipe of the store that an extractor fills: its fingerprint, and what its class and attribute ids name."""
    return {
        **extractor.fingerprint,
        "classes": list(extractor.classes),
        "attributes": list(extractor.attributes),
    }
