"""The extractor of a config and its recipe; a process builds each extractor once."""

from functools import lru_cache
from typing import Any

from data.config import RegionFileConfig
from data.exchange import RegionFile
from data.manifest import Recipe
from extractors.config import RegionsConfig, TextConfig
from extractors.registry import build_region_extractor
from extractors.torch_free import TextRecipeCache

ExtractorConfig = RegionsConfig | RegionFileConfig | TextConfig


@lru_cache(maxsize=2)  # one region extractor and one text extractor: a process loads their weights once for all jobs
def get_extractor(config: ExtractorConfig) -> Any:
    """Return the extractor of a config; each process builds it once."""
    if isinstance(config, RegionFileConfig):
        return RegionFile(config)
    if isinstance(config, TextConfig):
        from extractors.text import TextExtractor  # lazy: transformers takes seconds to import

        return TextExtractor(config)
    return build_region_extractor(config)


def get_recipe(config: ExtractorConfig) -> Recipe:
    """Return the recipe of the extractor of a config; a text extractor is not loaded if its recipe is known."""
    if not isinstance(config, TextConfig):
        recipe: Recipe = get_extractor(config).recipe
        return recipe
    cache = TextRecipeCache(config)
    cached = cache.read()
    if cached is None:
        cached = get_extractor(config).recipe
        cache.write(cached)
    return cached
