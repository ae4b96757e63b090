"""A query into hits: a typed sentence takes the functions that stored captions took, a photograph those of images."""

from collections import defaultdict
from copy import copy
from functools import cached_property
from pathlib import Path

import numpy as np

from data.images import load_image
from data.io import digest, sha256_file
from data.store import Store
from extractors.regions import RegionExtractor
from extractors.registry import build_region_extractor
from extractors.text import TextExtractor
from index.search import Index
from pipeline.plans.plan import Plan
from pipeline.search.hits import Hit, Region
from pipeline.stages.dataset import load_plan_dataset
from pipeline.stages.embed import load_trained_model
from pipeline.stages.origin import read_provenance
from tern.model import caption_field, embed_new_captions, embed_new_images

MAX_QUERY_CHARACTERS = 2_000
REGIONS_PER_HIT = 2  # regions shown a hit


class Searcher:
    """The published index of a plan (or another version), with the model and the extractors that made its vectors.

    Raises FileNotFoundError if nothing is published, ValueError if the plan's extractors are not those of the index.
    """

    def __init__(self, plan: Plan, version: int | None = None):
        self.plan = plan
        self.index = Index.open(plan.workspace / "index", version)
        origin = read_provenance(self.index)
        self._model = load_trained_model(plan.workspace / "models" / origin["model"], plan.text)
        self._regions = self._region_store(origin["regions"])
        self._tokens_name = origin["tokens"]
        self._root = plan.dataset.images if plan.dataset else plan.workspace / "dataset" / "images"

    def with_version(self, version: int | None = None) -> "Searcher":
        """The same over another version (default: the one that is served now); what is loaded is not loaded again."""
        index = Index.open(self.index.root, version)
        if index.manifest.provenance != self.index.manifest.provenance:
            index.close()
            return Searcher(self.plan, version)
        other = copy(self)
        other.index = index
        other._regions = other._region_store(index.manifest.provenance["regions"])  # which may have grown
        for name in ("_paths", "_by_bytes", "_by_hash"):
            other.__dict__.pop(name, None)
        return other

    def close(self) -> None:
        """Let go of the index."""
        self.index.close()

    def _region_store(self, name: str) -> Store:
        """The region store of the index: in the workspace, or where the plan says that it was given."""
        given = self.plan.regions_store
        store = Store(given or self.plan.workspace / "stores" / name)
        if (found := f"regions-{digest(store.recipe)}") != name:
            raise ValueError(
                f"the index was built from {name}, but {store.folder} holds {found}: run `tern index` first."
            )
        return store

    @cached_property
    def _text(self) -> TextExtractor:
        extractor = TextExtractor(self.plan.text)
        self._check(extractor.recipe, self._tokens_name, "tokens", "text")
        return extractor

    @cached_property
    def _photo(self) -> RegionExtractor:
        extractor = build_region_extractor(self.plan.regions)
        self._check(extractor.recipe, self.index.manifest.provenance["regions"], "regions", "regions")
        return extractor

    def _check(self, recipe: dict, name: str, kind: str, table: str) -> None:
        if f"{kind}-{digest(recipe)}" != name:
            raise ValueError(
                f"the index was built from {name}, but the plan's [{table}] is another extractor "
                f"({kind}-{digest(recipe)}): run `tern index` with this plan first."
            )

    def embed_text(self, sentence: str) -> np.ndarray:
        """(1, e) unit vector of a typed sentence. Raises ValueError for an empty or an endless one."""
        sentence = " ".join(sentence.split())
        if not sentence or len(sentence) > MAX_QUERY_CHARACTERS:
            raise ValueError(f"a query has 1 to {MAX_QUERY_CHARACTERS:,} characters, this one {len(sentence):,}.")
        return embed_new_captions(self._model, [getattr(self._text([sentence])[0], caption_field(self._model))])

    def embed_image(self, path: Path) -> np.ndarray:
        """(1, e) unit vector of a photograph. Where regions were not extracted here, only their images are known."""
        if self.plan.regions_file is not None or self.plan.regions_store is not None:
            return self._vector_of_stored(path)
        found = self._photo([load_image(path)])[0]
        return embed_new_images(self._model, [(found.features, found.boxes, found.size, found.scores)])

    def _vector_of_stored(self, path: Path) -> np.ndarray:
        name = self._imported(path) if self.plan.regions_store else self._by_hash.get(sha256_file(path))
        if name is None:
            source = self.plan.regions_store or "a file"
            raise ValueError(
                f"this plan's regions come from {source}, which has none for this photograph: no detector is run."
            )
        features, boxes, size, scores = (self._regions.read(f, [name]) for f in ("features", "boxes", "size", "scores"))
        return embed_new_images(self._model, [(features, boxes, tuple(size[0]), scores)])

    def _imported(self, path: Path) -> str | None:
        """Id of a photograph whose regions were imported: their store never saw the pictures, the dataset has them."""
        size, content = path.stat().st_size, sha256_file(path)
        return next((name for name in self._by_bytes.get(size, ()) if sha256_file(self._paths[name]) == content), None)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {image.id: image.path for image in load_plan_dataset(self.plan).images if image.id in self._regions}

    @cached_property
    def _by_bytes(self) -> dict[int, list[str]]:
        """Length of a photograph's file -> image ids: few others need to be read to find it."""
        found: dict[int, list[str]] = defaultdict(list)
        for name, path in self._paths.items():
            if path.is_file():
                found[path.stat().st_size].append(name)
        return found

    @cached_property
    def _by_hash(self) -> dict[str, str]:
        """Hash of a photograph's bytes -> image id: a name says little, and a copy may have another."""
        ids = self._regions.ids
        return dict(zip(self._regions.content_hashes(ids), ids, strict=True))

    def search_text(self, sentence: str, k: int = 10, where: str | None = None) -> list[Hit]:
        """The k images that fit a sentence best, with the regions that answer to it; of those that a filter takes."""
        query = self.embed_text(sentence)
        return [self._image_hit(found, query) for found in self.index.search(query, k, "image", where=where)[0]]

    def search_image(self, path: Path, k: int = 10, where: str | None = None) -> list[Hit]:
        """The k captions that fit a photograph best; of those that a filter over their metadata takes."""
        found = self.index.search(self.embed_image(path), k, "caption", where=where)[0]
        return [Hit(hit.id, hit.score, self._root / hit.metadata.path, (hit.metadata.text,)) for hit in found]

    def _image_hit(self, found, query: np.ndarray) -> Hit:
        rows = self.index.get_image_metadata("caption", found.id)
        captions = tuple(row.text for row in rows)
        return Hit(found.id, found.score, self._root / found.metadata.path, captions, self._matched(found.id, query))

    def _matched(self, image_id: str, query: np.ndarray) -> tuple[Region, ...]:
        """The regions that, embedded alone, lie nearest to the query (the whole image is not one of them)."""
        if image_id not in self._regions:  # it was indexed, and can no longer be read
            return ()
        read = lambda field: self._regions.read(field, [image_id])  # noqa: E731
        features, boxes, size = read("features"), read("boxes"), tuple(read("size")[0])
        each = [slice(i, i + 1) for i in range(len(boxes))]
        alone = embed_new_images(self._model, [(features[i], boxes[i], size, np.ones(1)) for i in each])
        scores, ids, names = alone @ query[0], read("class_ids"), self._regions.recipe.get("classes", [])
        some = (ids >= 0).any()  # an imported format may have no classes: then every row is a region
        order = [i for i in np.argsort(-scores, kind="stable") if ids[i] >= 0 or not some][:REGIONS_PER_HIT]
        label = lambda i: names[ids[i]] if 0 <= ids[i] < len(names) else ""  # noqa: E731
        return tuple(Region(tuple(map(float, boxes[i])), label(i), float(scores[i])) for i in order)
