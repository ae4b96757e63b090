"""Write the report of a run: metrics, training curves, results of text and photo queries, and the worst misses."""

from collections.abc import Mapping
from pathlib import Path

from data.datasets import Dataset
from data.io import write_text
from data.store import Store
from data.text import printable
from index.config import QUERY_SOURCES
from index.versions import Manifest
from pipeline.pages.cards import (
    CollectionRow,
    HitCard,
    PhotoCard,
    ScoredCaption,
    StageRow,
    make_cards,
    make_thumbnail,
    to_data_uri,
)
from pipeline.pages.curves import plot_history
from pipeline.pages.embedding_map import make_embedding_map
from pipeline.pages.miss_records import MissReport
from pipeline.pages.miss_words import MissWords, open_miss_words
from pipeline.pages.misses import find_misses, make_miss_rows, write_misses
from pipeline.pages.reliability import (
    find_absent_queries,
    list_calibrations,
    make_calibration_rows,
    plot_reliability,
)
from pipeline.pages.render import render_page
from pipeline.pages.start import make_start
from pipeline.plans.notes import describe_extractor
from pipeline.runs.carried_demo import CarriedEvaluation, read_second_evaluation
from pipeline.runs.invalid_records import count_truncated_captions, count_unknown_captions
from pipeline.runs.notes import (
    describe_chance,
    describe_missing_captions,
    describe_splits,
    describe_training,
)
from pipeline.runs.quality import GroupRow, measure_groups
from pipeline.runs.runner import Finished
from pipeline.search.hits import Hit
from pipeline.search.searcher import Searcher
from pipeline.stages.dataset import splits_with_captions
from pipeline.stages.evaluate import read_or_compute_ranks
from tern.card import ModelCard, read_model_card
from tern.evaluation import DIRECTIONS, MIN_QUERIES, Evaluation

SPLIT = "test"  # of the headline, the photo queries and the misses
MAX_MISSES = 4
CAPTIONS_PER_PHOTO = 5


def write_report(finished: Finished, with_misses_page: bool = True) -> Path:
    """Write the report of a run to `report.html` in its workspace, as one page that needs no other file.

    Args:
        finished: Results of the run.
        with_misses_page: Whether to write the page with all misses of the test split to the same folder, and to link
            to it. Else the report is the only file that is written.

    Returns:
        The path of the report.
    """
    plan, features, evaluation = finished.plan, finished.features, finished.evaluation
    searcher = Searcher(plan)
    manifest, calibrations = searcher.index.manifest, list_calibrations(searcher.index.manifest)
    galleries = [_make_gallery(searcher, query, plan.report.hits_per_query) for query in plan.report.queries]
    misses, words = _find_misses(finished), open_miss_words(finished.vectors)
    misses_page = _write_misses(finished, misses, words) if misses and with_misses_page else ""
    carried = read_second_evaluation(finished)
    num_queries = _count_queries(features.dataset, evaluation, carried)
    page = render_page(
        "report.html",
        title=f"TERN on {printable(features.dataset.name)}",
        num_images=len(features.input_dataset.images),
        num_captions=len(features.input_dataset.captions),
        start=make_start(searcher, plan),
        headline=_make_headline(evaluation, num_queries),
        num_queries=num_queries,
        notes=_list_notes(finished),
        galleries=galleries,
        photos=_make_photo_cards(finished, searcher),
        splits=evaluation.splits,
        groups=_measure_groups(finished) if misses else [],
        min_queries=MIN_QUERIES,
        embedding_map=make_embedding_map(finished.vectors, features.dataset, SPLIT) if misses else None,
        split=SPLIT,
        carried=carried,
        directions=DIRECTIONS,
        calibrations=make_calibration_rows(calibrations),
        reliability=plot_reliability(calibrations) if calibrations else "",
        absent=find_absent_queries(searcher) if plan.demo is not None and "image" in calibrations else [],
        curves=_plot_history(finished.model / "history.csv"),
        misses=make_miss_rows(misses.worst["t2i"][:MAX_MISSES], features.dataset, words=words) if misses else (),
        has_misses=misses is not None,
        misses_page=misses_page,
        stages=_make_stage_rows(finished),
        invalid_records=[(printable(record.name), printable(record.reason)) for record in features.invalid_records],
        collections=_make_collection_rows(manifest),
        not_checked=manifest.gate.describe_not_checked() if manifest.gate else (),
    )
    return write_text(finished.workspace.report, page)


def _make_gallery(searcher: Searcher, query: str, k: int) -> tuple[str, tuple[HitCard, ...], str]:
    """Return the query, its hits, and why there are none."""
    try:
        return query, make_cards(searcher.search_text(query, k)), ""
    except ValueError as error:
        return query, (), str(error)


def _list_notes(finished: Finished) -> list[str]:
    return [
        *describe_extractor(finished.plan),
        *describe_training(read_model_card(finished.model)),
        *describe_missing_captions(finished.features.dataset, finished.evaluation),
        *describe_chance(finished.evaluation),
        *describe_splits(finished.features.input_dataset),
        *map(printable, finished.features.input_dataset.notes),
    ]


def _count_queries(
    dataset: Dataset, evaluation: Evaluation, carried: CarriedEvaluation | None
) -> dict[str, dict[str, int]]:
    """Count the queries of each row of a table of metrics and direction; an image without captions is not a query."""
    counts = {name: {"t2i": row.captions, "i2t": row.images} for name, row in (carried.rows if carried else {}).items()}
    for split in evaluation.splits:
        captions = dataset.select_split(split).captions
        counts[split] = {"t2i": len(captions), "i2t": len({caption.image_id for caption in captions})}
    return counts


def _make_headline(evaluation: Evaluation, num_queries: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, str]]:
    """Return label, value and context of each tile."""
    if SPLIT not in evaluation.splits:
        return []
    result = evaluation.splits[SPLIT]
    metrics, chance = result.metrics, result.chance
    tiles = [
        ("t2i", "R@1", metrics.t2i.r1, chance and chance.t2i_r1),
        ("t2i", "R@10", metrics.t2i.r10, chance and chance.t2i_r10),
        ("i2t", "R@1", metrics.i2t.r1, chance and chance.i2t_r1),
        ("i2t", "R@10", metrics.i2t.r10, chance and chance.i2t_r10),
    ]
    items = {"t2i": f"{result.images:,} images", "i2t": f"{result.captions:,} captions"}
    rows = []
    for direction, name, value, level in tiles:
        queries = f"{num_queries[SPLIT][direction]:,} queries of {SPLIT} among {items[direction]}"
        level_text = "" if level is None else f"chance {level:.1f} %; "
        rows.append((f"{DIRECTIONS[direction]} {name}", f"{value:.1f} %", f"{level_text}{queries}"))
    level_text = "" if chance is None else f"chance {chance.rsum:.1f}; "
    return [*rows, ("rsum", f"{metrics.rsum:.1f} of 600", f"{level_text}the six recalls of {SPLIT} added")]


def _make_photo_cards(finished: Finished, searcher: Searcher) -> list[PhotoCard]:
    """Search captions for images of the test split, taken at equal distances."""
    features, num_images = finished.features, finished.plan.report.num_images
    if not splits_with_captions(features.dataset, (SPLIT,)) or "caption" not in searcher.index.kinds:
        return []
    store = Store(finished.vectors.images)
    images = [image for image in features.dataset.select_split(SPLIT).images if image.id in store]
    step = max(1, len(images) // max(1, num_images))
    cards = []
    for image in images[::step][:num_images]:
        relevant_ids = {caption.id for caption in features.input_dataset.captions_by_image_id[image.id]}
        captions = tuple(
            ScoredCaption(hit.captions[0], hit.score, hit.id in relevant_ids)
            for hit in searcher.search_image(image.path, CAPTIONS_PER_PHOTO)
        )
        thumbnail = make_thumbnail(Hit(image.id, 0.0, image.path, ()))
        cards.append(PhotoCard(to_data_uri(thumbnail), printable(image.id), captions))
    return cards


def _find_misses(finished: Finished) -> MissReport | None:
    if not splits_with_captions(finished.features.dataset, (SPLIT,)):
        return None
    return find_misses(finished.vectors, finished.features.dataset, SPLIT)


def _write_misses(finished: Finished, misses: MissReport, words: MissWords | None) -> str:
    """Write the page with all misses of the test split; return its name."""
    path = finished.workspace.misses(SPLIT)
    return write_misses(path, misses, finished.features.dataset, words=words).name


def _plot_history(history: Path) -> str:
    return plot_history(history) if history.is_file() else ""


def _measure_groups(finished: Finished) -> list[GroupRow]:
    dataset, plan = finished.features.dataset, finished.plan
    ranks = read_or_compute_ranks(finished.vectors, dataset, finished.workspace, SPLIT, plan.evaluate)
    return measure_groups(plan, dataset, SPLIT, ranks)


def _make_stage_rows(finished: Finished) -> list[StageRow]:
    features = finished.features
    regions, tokens, captions = Store(features.regions), Store(features.tokens), features.dataset.captions
    truncated, unknown = count_truncated_captions(features), count_unknown_captions(features)
    limit = finished.plan.text.max_tokens
    descriptions = {
        "dataset": f"{printable(features.dataset.name)}: {_count_splits(features.input_dataset)}",
        "region features": f"{len(regions):,} images, {regions.dim:,} features per region",
        "token features": f"{len(tokens):,} captions"
        + (f", {tokens.dim:,} features per token" if len(tokens) else "")
        + (f"; {truncated:,} captions truncated to {limit} tokens" if truncated else "")
        + (f"; {unknown:,} captions of which the tokenizer knows nothing" if unknown else ""),
        "training": _describe_model(read_model_card(finished.model)),
        "embedding": f"one unit vector per image{' and per caption' if captions else ''}",
        "evaluation": "recall on the held-out splits" if finished.evaluation.splits else "nothing to measure",
        "index": f"version {finished.index.stem} published",
    }
    return [StageRow(entry.stage, descriptions[entry.stage], entry.output, entry.seconds) for entry in finished.stages]


def _count_splits(dataset: Dataset) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in dataset.count_images_by_split().items())


def _describe_model(card: ModelCard) -> str:
    origin = f"best epoch {card.epoch}" if card.checkpoint is None else f"from {printable(card.checkpoint)}"
    return f"{card.num_parameters / 1e6:.2f} M parameters, {origin}"


def _make_collection_rows(manifest: Manifest) -> list[CollectionRow]:
    return [
        CollectionRow(
            kind=kind,
            rows=collection.counts.live,
            factory=collection.factory,
            shards=len(collection.shards),
            nlist=collection.nlist,
            nprobe=collection.search.nprobe,
            recall=collection.recall.recall,
            queries=f"{collection.recall.num_test_queries:,} {QUERY_SOURCES[collection.recall.query_source]}",
            is_exact=collection.is_exact,
        )
        for kind, collection in manifest.collections.items()
    ]
