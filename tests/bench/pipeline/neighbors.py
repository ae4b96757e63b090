"""What the nearest images share with an image, and what `--also` and `--without` change, on the demo dataset."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.demo.scenes.families import plan_scene
from data.demo.scenes.kinds import KINDS, PLACES
from data.demo.scenes.scene import SceneSpec
from data.demo.words import place_phrases
from data.store.store import Store
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.search import Searcher
from tern.batching.pooled import pool_features

NEIGHBORS = 5
MIN_IMAGES = 5  # of a pair of facts
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
Share = Callable[[SceneSpec, SceneSpec], bool]


def neighbors(folder: Path) -> None:
    """Print both tables for a run of the plan `demo` in `folder`, which is finished first if it is not."""
    plan = load_plan("demo", (f'workspace="{folder}"',))
    finished = PipelineRunner(plan).run_all()
    assert plan.demo is not None
    store, images = Store(finished.vectors.images), finished.features.dataset.images
    specs = [plan_scene(plan.demo.seed, int(image.id[6:11])) for image in images]
    ids = [image.id for image in images]
    held_out = np.array([image.split != "train" for image in images])
    vectors = _normalize(store.read("features", ids).astype(np.float32))
    regions = Store(finished.features.regions)
    ranked = {"TERN": vectors}
    for pooling in ("first", "mean", "max"):
        features = pool_features(regions, ids, pooling)
        ranked[f"{pooling} of the regions"] = _normalize(features)
        ranked[f"{pooling} of the regions, standardized"] = _normalize(
            (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
        )
    _print_shares(ranked, specs, held_out)
    _print_sums(Searcher(plan), vectors, specs, held_out)


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _list_shares() -> dict[str, Share]:
    """List what two scenes can share: the place, and the first group of the first scene."""

    def has_group(*names: str) -> Share:
        def share(scene: SceneSpec, other: SceneSpec) -> bool:
            first = scene.groups[0]
            return any(all(getattr(group, n) == getattr(first, n) for n in names) for group in other.groups)

        return share

    return {
        "place": lambda scene, other: scene.place == other.place,
        "kind": has_group("kind"),
        "kind and number": has_group("kind", "number"),
        "kind and action": has_group("kind", "action"),
        "kind and color": has_group("kind", "color"),
        "kind and place": lambda scene, other: scene.place == other.place and has_group("kind")(scene, other),
    }


def _print_shares(ranked: dict[str, np.ndarray], specs: list[SceneSpec], held_out: np.ndarray) -> None:
    """Print the percentage of the nearest images of each held-out scene that share each factor with it."""
    shares, queries = _list_shares(), np.flatnonzero(held_out)
    table = Table("nearest by", *shares, title=f"{len(queries)} held-out scenes, {len(specs)} images")
    matches = {}
    for name, share in shares.items():
        asked = [i for i in queries if specs[i].groups[0].color] if name == "kind and color" else queries
        matrix = np.array([[share(specs[i], other) for other in specs] for i in asked])
        matrix[np.arange(len(asked)), asked] = False
        matches[name] = np.array(asked), matrix
    chance = [matrix.sum() / (len(asked) * (len(specs) - 1)) for asked, matrix in matches.values()]
    best = [np.minimum(matrix.sum(axis=1), NEIGHBORS).mean() / NEIGHBORS for _, matrix in matches.values()]
    table.add_row("chance", *(f"{100 * share:.1f}" for share in chance))
    for method, vectors in ranked.items():
        cells = []
        for asked, matrix in matches.values():
            scores = vectors[asked] @ vectors.T
            scores[np.arange(len(asked)), asked] = -np.inf
            nearest = np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBORS]
            cells.append(f"{100 * np.take_along_axis(matrix, nearest, axis=1).mean():.1f}")
        table.add_row(method, *cells)
    table.add_row("possible", *(f"{100 * share:.1f}" for share in best))
    Console(width=140).print(table)


@dataclass(frozen=True)
class _Facts:
    """Which scenes have a kind or a place, and the vectors of texts that say so."""

    has_kind: dict[str, np.ndarray]
    has_place: dict[str, np.ndarray]
    kind_vectors: dict[str, np.ndarray]
    place_vectors: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Case:
    """A query of two parts, and what it asks for."""

    first: np.ndarray
    second: np.ndarray
    wanted: np.ndarray
    own: int | None
    """Number of the image that asks, which is no result."""
    text: str = ""
    """The query as one text; empty if there is none."""


def _print_sums(searcher: Searcher, vectors: np.ndarray, specs: list[SceneSpec], held_out: np.ndarray) -> None:
    """Print the percentage of the first images that have the wanted facts, by the weight of the second part."""
    facts = _Facts(
        {kind: np.array([any(g.kind == kind for g in spec.groups) for spec in specs]) for kind in KINDS},
        {place: np.array([spec.place == place for spec in specs]) for place in PLACES},
        {kind: searcher.embed_text(f"a {kind}")[0] for kind in KINDS},
        {place: searcher.embed_text(_phrase(place))[0] for place in PLACES},
    )
    table = Table("query", "queries", "one text", *(f"weight {weight:g}" for weight in WEIGHTS))
    for sign, word in ((1, "also"), (-1, "without")):
        by_first = {
            f"TEXT of a kind, {word} TEXT of a place": list(_iter_text_cases(facts, sign)),
            f"IMAGE, {word} TEXT of a place": list(_iter_image_cases(facts, sign, vectors, specs, held_out)),
        }
        for name, cases in by_first.items():
            shares = [
                np.mean([_measure(vectors, case.first + sign * weight * case.second, case) for case in cases])
                for weight in WEIGHTS
            ]
            single = [_measure(vectors, searcher.embed_text(case.text)[0], case) for case in cases if case.text]
            one = f"{100 * np.mean(single):.1f}" if single else ""
            table.add_row(name, str(len(cases)), one, *(f"{100 * share:.1f}" for share in shares))
    Console(width=140).print(table)


def _phrase(place: str) -> str:
    return place_phrases(place, "ground")[0]


def _iter_text_cases(facts: _Facts, sign: int) -> Iterator[_Case]:
    for kind, has_kind in facts.has_kind.items():
        for place, has_place in facts.has_place.items():
            both, only_kind = has_kind & has_place, has_kind & ~has_place
            wanted = both if sign > 0 else only_kind
            if min(both.sum(), wanted.sum()) >= MIN_IMAGES:
                text = f"a {kind}{' ' if sign > 0 else ', not '}{_phrase(place)}"
                yield _Case(facts.kind_vectors[kind], facts.place_vectors[place], wanted, None, text)


def _iter_image_cases(
    facts: _Facts, sign: int, vectors: np.ndarray, specs: list[SceneSpec], held_out: np.ndarray
) -> Iterator[_Case]:
    """Yield each held-out scene with another place, or without its own; results have the kind of its first group."""
    for i in np.flatnonzero(held_out):
        has_kind = facts.has_kind[specs[i].groups[0].kind] & (np.arange(len(specs)) != i)
        for place, has_place in facts.has_place.items():
            wanted = has_kind & (has_place if sign > 0 else ~has_place)
            if (specs[i].place == place) == (sign < 0) and wanted.sum() >= MIN_IMAGES:
                yield _Case(vectors[i], facts.place_vectors[place], wanted, int(i))


def _measure(vectors: np.ndarray, query: np.ndarray, case: _Case) -> float:
    scores = vectors @ query
    if case.own is not None:
        scores[case.own] = -np.inf
    return float(case.wanted[np.argsort(-scores, kind="stable")[:NEIGHBORS]].mean())
