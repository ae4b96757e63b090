"""One page of what was done and what came out: metrics, curves, galleries of typed queries, and where it fails."""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from data.datasets import Dataset
from data.io import write_text
from data.store import Store
from data.text import printable
from index.versions import Manifest
from pipeline.pages.cards import make_card, make_thumbnail, templates, to_data_uri
from pipeline.pages.misses import MissReport, find_misses, make_cards, write_misses
from pipeline.runs.invalid_records import count_truncated_captions
from pipeline.runs.runner import Finished
from pipeline.search.hits import Hit
from pipeline.search.searcher import Searcher
from pipeline.stages.dataset import splits_with_captions
from tern.card import read_model_card
from tern.evaluation import Evaluation

matplotlib.use("Agg")  # no screen is needed
MISSES = 4
SPLIT = "test"


def write_report(finished: Finished) -> Path:
    """Write the report of a run to `report.html` in its workspace, as one page that needs no other file.

    The report links to the page with all misses of the test split, which is written to the same folder.
    """
    plan, features, evaluation = finished.plan, finished.features, finished.evaluation
    searcher = Searcher(plan)
    queries = plan.report.queries
    galleries = [
        (query, [make_card(hit) for hit in searcher.search_text(query, plan.report.hits_per_query)])
        for query in queries
    ]
    misses = _misses(finished)
    content = {
        "title": f"TERN on {features.dataset.name}",
        "counts": _counts(features.input_dataset),
        "headline": _headline(evaluation),
        "galleries": galleries,
        "photos": _photos(finished, searcher),
        "splits": evaluation.splits,
        "curves": _curves(path) if (path := finished.model / "history.csv").is_file() else "",
        "misses": make_cards(misses.worst["t2i"][:MISSES], features.dataset) if misses else [],
        "all_misses": write_misses(finished.workspace.misses(SPLIT), misses, features.dataset).name if misses else "",
        "done": _done(finished),
        "invalid_items": [(printable(entry.name), printable(entry.reason)) for entry in features.invalid_records],
        "index": _index(searcher.index.manifest),
    }
    return write_text(finished.workspace.report, templates.get_template("report.html").render(content))


def _counts(dataset: Dataset) -> dict[str, str]:
    return {"images": f"{len(dataset.images):,}", "captions": f"{len(dataset.captions):,}"}


def _headline(evaluation: Evaluation) -> list[tuple[str, str]]:
    if SPLIT not in evaluation.splits:
        return []
    metrics = evaluation.splits[SPLIT].metrics.flat()
    names = {"t2i_r1": "text to image R@1", "t2i_r10": "text to image R@10", "i2t_r1": "image to text R@1"}
    names |= {"i2t_r10": "image to text R@10", "rsum": "rsum (of 600)"}
    return [(label, f"{metrics[key]:.1f}") for key, label in names.items()]


def _photos(finished: Finished, searcher: Searcher) -> list[dict[str, Any]]:
    """Photographs spread over the test split, each with the captions that lie nearest to it."""
    features, num_images = finished.features, finished.plan.report.num_images
    if not splits_with_captions(features.dataset, (SPLIT,)):
        return []
    known = features.dataset.select_split(SPLIT).images
    step = max(1, len(known) // max(1, num_images))
    photos = []
    for image in known[::step][:num_images]:
        found = searcher.search_image(image.path, 5)
        own = {caption.id for caption in features.input_dataset.captions_by_image_id[image.id]}
        hits = [{"text": hit.captions[0], "score": hit.score, "own": hit.id in own} for hit in found]
        picture = to_data_uri(make_thumbnail(Hit(image.id, 0.0, image.path, ())))
        photos.append({"id": image.id, "picture": picture, "hits": hits})
    return photos


def _misses(finished: Finished) -> MissReport | None:
    if not splits_with_captions(finished.features.dataset, (SPLIT,)):
        return None
    return find_misses(finished.vectors, finished.features.dataset, SPLIT)


def _curves(path: Path) -> str:
    """Loss and validation recall by epoch, as a picture inside the page."""
    table = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), dpi=110, constrained_layout=True)
    left.plot(table["epoch"], table["loss"], color="#e4572e")
    left.set(title="training loss", xlabel="epoch", yscale="log")
    for key, name, style in (("t2i_r1", "text to image R@1", "-"), ("i2t_r1", "image to text R@1", "--")):
        right.plot(table["epoch"], table[key], style, color="#2a6fdb", label=name)
    for key, name, style in (("t2i_r10", "text to image R@10", "-"), ("i2t_r10", "image to text R@10", "--")):
        right.plot(table["epoch"], table[key], style, color="#2a9d5c", label=name)
    right.set(title="recall on val, percent", xlabel="epoch", ylim=(0, 101))
    right.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _done(finished: Finished) -> list[dict[str, str]]:
    features = finished.features
    regions, tokens, card = Store(features.regions), Store(features.tokens), read_model_card(finished.model)
    splits = ", ".join(f"{count:,} {name}" for name, count in features.input_dataset.count_images_by_split().items())
    texts = {
        "dataset": f"{features.dataset.name}: {splits}",
        "region features": f"{len(regions):,} images of {regions.dim} numbers a region",
        "token features": f"{len(tokens):,} captions of {tokens.dim} numbers a token"
        + (
            f"; {cut:,} were cut to {finished.plan.text.max_tokens} tokens"
            if (cut := count_truncated_captions(features))
            else ""
        ),
        "training": f"{card.num_parameters / 1e6:.2f} M parameters, "
        + (f"best epoch {card.epoch}" if card.checkpoint is None else f"from {printable(card.checkpoint)}"),
        "embedding": "a unit vector an image and a caption",
        "evaluation": "recall on the held-out splits",
        "index": f"version {finished.index.stem} published",
    }
    return [
        {"stage": entry.stage, "output": entry.output, "seconds": f"{entry.seconds:.1f}", "text": texts[entry.stage]}
        for entry in finished.stages
    ]


def _index(manifest: Manifest) -> list[dict[str, Any]]:
    rows = []
    for kind, about in manifest.collections.items():
        row = {"kind": kind, "rows": f"{about.counts.live:,}", "shards": len(about.shards)}
        recall = f"{100 * about.recall.recall:.1f} %"
        probed = {"factory": about.factory, "nlist": about.nlist, "nprobe": about.search.nprobe}
        rows.append({**row, **probed, "recall": recall})
    return rows
