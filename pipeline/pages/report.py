"""One page of what was done and what came out: metrics, curves, galleries of typed queries, and where it fails."""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from data.io import read_json, write_text
from data.store import Store
from data.text import printable
from index.versions import Manifest
from pipeline.pages.cards import make_card, make_thumbnail, templates, to_data_uri
from pipeline.pages.misses import MissReport, find_misses, make_cards, misses_path, write_misses
from pipeline.runs.runner import PipelineRunner
from pipeline.search.hits import Hit
from pipeline.search.searcher import Searcher
from pipeline.stages.dataset import splits_with_captions

matplotlib.use("Agg")  # no screen is needed
MISSES = 4
SPLIT = "test"


def write_report(chain: PipelineRunner) -> Path:
    """Write `workspace/report.html`, a page that needs no other file; stages that have not run yet are run first.

    It links to the page of all that was missed in the test split, which is written beside it.
    """
    plan, metrics, version = chain.plan, read_json(chain.metrics), chain.index
    searcher = Searcher(plan)
    queries = plan.report.queries
    galleries = [
        (query, [make_card(hit) for hit in searcher.search_text(query, plan.report.hits_per_query)])
        for query in queries
    ]
    misses = _misses(chain)
    content = {
        "title": f"TERN on {chain.dataset.name}",
        "counts": {"images": f"{len(chain.dataset.images):,}", "captions": f"{len(chain.dataset.captions):,}"},
        "headline": _headline(metrics),
        "galleries": galleries,
        "photos": _photos(chain, searcher),
        "metrics": metrics,
        "curves": _curves(path) if (path := chain.model / "history.csv").is_file() else "",
        "misses": make_cards(misses.worst["t2i"][:MISSES], chain.usable) if misses else [],
        "all_misses": write_misses(misses_path(plan.workspace, SPLIT), misses, chain.usable).name if misses else "",
        "done": _done(chain, version),
        "invalid_items": [(printable(name), printable(reason)) for name, reason in chain.list_invalid_records()],
        "index": _index(searcher.index.manifest),
    }
    return write_text(plan.workspace / "report.html", templates.get_template("report.html").render(content))


def _headline(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    if SPLIT not in metrics:
        return []
    names = {"t2i_r1": "text to image R@1", "t2i_r10": "text to image R@10", "i2t_r1": "image to text R@1"}
    names |= {"i2t_r10": "image to text R@10", "rsum": "rsum (of 600)"}
    return [(label, f"{metrics[SPLIT][key]:.1f}") for key, label in names.items()]


def _photos(chain: PipelineRunner, searcher: Searcher) -> list[dict[str, Any]]:
    """Photographs spread over the test split, each with the captions that lie nearest to it."""
    if not splits_with_captions(chain.usable, (SPLIT,)):
        return []
    known = chain.usable.select_split(SPLIT).images
    step = max(1, len(known) // max(1, chain.plan.report.num_images))
    photos = []
    for image in known[::step][: chain.plan.report.num_images]:
        found = searcher.search_image(image.path, 5)
        own = {caption.id for caption in chain.dataset.captions_by_image_id[image.id]}
        hits = [{"text": hit.captions[0], "score": hit.score, "own": hit.id in own} for hit in found]
        picture = to_data_uri(make_thumbnail(Hit(image.id, 0.0, image.path, ())))
        photos.append({"id": image.id, "picture": picture, "hits": hits})
    return photos


def _misses(chain: PipelineRunner) -> MissReport | None:
    if not splits_with_captions(chain.usable, (SPLIT,)):
        return None
    return find_misses(chain.vectors, chain.usable, SPLIT)


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


def _done(chain: PipelineRunner, version: Path) -> list[dict[str, str]]:
    regions, tokens, card_of = Store(chain.regions), Store(chain.tokens), read_json(chain.model / "model.json")
    splits = ", ".join(f"{count:,} {name}" for name, count in chain.dataset.count_images_by_split().items())
    texts = {
        "dataset": f"{chain.dataset.name}: {splits}",
        "region features": f"{len(regions):,} images of {regions.dim} numbers a region",
        "token features": f"{len(tokens):,} captions of {tokens.dim} numbers a token"
        + (
            f"; {cut:,} were cut to {chain.plan.text.max_tokens} tokens"
            if (cut := chain.count_truncated_captions())
            else ""
        ),
        "training": f"{card_of['parameters'] / 1e6:.2f} M parameters, "
        + (f"from {printable(card_of['checkpoint'])}" if "checkpoint" in card_of else f"best epoch {card_of['epoch']}"),
        "embedding": "a unit vector an image and a caption",
        "evaluation": "recall on the held-out splits",
        "index": f"version {version.stem} published",
    }
    return [
        {"stage": stage, "output": output, "seconds": f"{seconds:.1f}", "text": texts[stage]}
        for stage, output, seconds in chain.list_finished_stages()
    ]


def _index(manifest: Manifest) -> list[dict[str, Any]]:
    rows = []
    for kind, about in manifest.collections.items():
        row = {"kind": kind, "rows": f"{about.counts.live:,}", "shards": len(about.shards)}
        recall = f"{100 * about.recall.recall:.1f} %"
        probed = {"factory": about.factory, "nlist": about.nlist, "nprobe": about.search.nprobe}
        rows.append({**row, **probed, "recall": recall})
    return rows
