"""`EncoderPool`: the models and the region extractor of an index, loaded once for all versions that are open."""

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from data.io import digest
from data.manifest import Recipe, is_store, read_store_manifest
from extractors.config import RegionsConfig, TextConfig, machine_independent
from pipeline.origin import Origin
from pipeline.plans.plan import Plan
from pipeline.search.model_encoder import ModelEncoder, OnnxEncoder
from pipeline.workspace import Workspace
from tern.query import read_query_record

if TYPE_CHECKING:
    from extractors.regions import RegionExtractor

log = logging.getLogger(__name__)
MIN_PHOTO_SIDE = 1_600  # pixels


class EncoderPool:
    """The models and the region extractor of an index, each loaded once and shared by all versions that are open.

    The extractor stays loaded. A model stays loaded while an encoder uses it. Safe to share between threads.

    Args:
        models: Folder of the models, one folder per model.
        text: Text extractor of the plan, for a model without a query side; None if there is no plan.
        regions: Region extractor for new photos; None if there is none.
        stores: Folder of the feature stores; None if there is none.
        allow_variants: Whether extractors may compute in another precision than those of the stores: a model package
            is made for other machines.
        is_resident: Whether many queries will follow, so that loading may take longer to make each of them faster.
        region_recipe: Recipe of the regions that the model was trained on, if the stores are not known.
    """

    def __init__(
        self,
        models: Path,
        text: TextConfig | None,
        regions: RegionsConfig | None,
        stores: Path | None,
        allow_variants: bool = False,
        is_resident: bool = False,
        region_recipe: Recipe | None = None,
    ) -> None:
        self._region_recipe = region_recipe
        self._models_folder, self._text_config, self._regions_config = models, text, regions
        self._stores, self._allow_variants, self._is_resident = stores, allow_variants, is_resident
        self._lock = threading.Lock()
        self._models: WeakValueDictionary[str, ModelEncoder] = WeakValueDictionary()
        self._regions: RegionExtractor | None = None

    @property
    def has_region_extractor(self) -> bool:
        """Whether there is an extractor for new photos."""
        return self._regions_config is not None

    @property
    def photo_side(self) -> int:
        """Maximum side in pixels of a photo after decoding, for a detector."""
        return max(MIN_PHOTO_SIDE, getattr(self._regions_config, "max_size", None) or 0)

    def get_model(self, origin: Origin) -> ModelEncoder:
        """Return the model of an index, with its text model.

        Raises:
            FileNotFoundError: The model is not in the folder of models.
            ValueError: Its query side is damaged; or it has none, and the text extractor of the plan is not the one of
                the index.
        """
        with self._lock:
            model = self._models.get(origin.model)
            if model is None:
                model = self._models[origin.model] = self._load_model(origin)
            return model

    def _load_model(self, origin: Origin) -> ModelEncoder:
        folder = self._models_folder / origin.model
        record = read_query_record(folder)
        if record is not None:
            return OnnxEncoder(folder, record, self._is_resident)
        if self._text_config is None:
            raise FileNotFoundError(
                f"{folder} has no query side (query.json). Pass the folder of the model, or of its model package."
            )
        from pipeline.search.torch_encode import TorchEncoder  # lazy: torch and transformers take seconds to import

        log.warning(
            f"The model {origin.model} has no query side, so queries need torch, which takes seconds to import. "
            "`tern train` writes it."
        )
        encoder = TorchEncoder(folder, self._text_config)
        self._check_extractor(encoder.recipe, origin.tokens, "text")
        return encoder

    def get_region_extractor(self, name: str) -> "RegionExtractor":
        """Return the region extractor; it must have made the region store `name`.

        Raises:
            ValueError: There is no extractor, or it is another one.
        """
        if self._regions_config is None:
            raise ValueError("There is no extractor for new photos here. Search with a text or with an image by id.")
        with self._lock:
            self._regions = self._regions or _build(self._regions_config)
        self._check_extractor(self._regions.recipe, name, "regions")
        return self._regions

    def _check_extractor(self, recipe: Recipe, store: str, table: str) -> None:
        """Raise ValueError if an extractor is not the one of a store, apart from the device it runs on."""
        names = _list_store_names(store.partition("-")[0], recipe)
        if store in names or ((self._allow_variants or self._region_recipe) and self._is_variant(recipe, store)):
            return
        raise ValueError(
            f"The index was built from {store}, but the table [{table}] of the plan configures another extractor "
            f"({names[0]}), or an older version of this program built the index. Run `tern index` with this plan first."
        )

    def _is_variant(self, recipe: Recipe, store: str) -> bool:
        if self._region_recipe is not None:
            return machine_independent(self._region_recipe) == machine_independent(recipe)
        folder = None if self._stores is None else self._stores / store
        stored = read_store_manifest(folder).recipe if folder is not None and is_store(folder) else None
        return stored is not None and machine_independent(stored) == machine_independent(recipe)


def make_plan_pool(plan: Plan, is_resident: bool = False) -> EncoderPool:
    """Make the pool of the models and extractors of a plan."""
    workspace = Workspace(plan.workspace)
    has_extractor = plan.regions_file is None and plan.regions_store is None
    return EncoderPool(
        workspace.models,
        plan.text,
        plan.regions if has_extractor else None,
        workspace.stores,
        allow_variants=plan.model is not None,
        is_resident=is_resident,
    )


def _list_store_names(kind: str, recipe: Recipe) -> tuple[str, ...]:
    """List the names of the stores of an extractor: that of its recipe first, then those of other devices."""
    cpu_recipe = {key: value for key, value in recipe.items() if key != "device"}
    return tuple(f"{kind}-{digest(variant)}" for variant in (recipe, cpu_recipe, cpu_recipe | {"device": "cuda"}))


def _build(config: RegionsConfig) -> "RegionExtractor":
    from extractors.registry import build_region_extractor  # lazy: photos are rare, and Pillow takes time to import

    return build_region_extractor(config)
