"""The card of a model package, `README.md`: metadata for the Hugging Face hub, then text for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from data.text import escape_markdown
from pipeline.runs.export.content import ExportOptions, PackageContent
from tern.card import PackageExtractor
from tern.evaluation import DIRECTIONS, SplitEvaluation

LIBRARY = "tern-retrieval"
SHOWN = ("r1", "r5", "r10", "medr")
UNKNOWN = "a dataset that is not known"


def format_readme(name: str, content: PackageContent, options: ExportOptions) -> str:
    """Format the card of a package.

    Args:
        name: Name of the package.
        content: What the package is written from.
        options: License and notes of the author.
    """
    sections = [
        _format_metadata(name, content, options.license),
        f"# {escape_markdown(name)}\n",
        "A model that finds images by text and captions by image, with everything that is needed to use it on other "
        "images.\nIt was written by `tern model export`.\n",
        "## Use it\n",
        "One line of a plan, in place of `[train]`:\n",
        f"```toml\nmodel = {json.dumps(name)}\n```\n",
        "The value is the path of this folder, or its name on the Hugging Face hub. The extractors come from the "
        "package.\n`tern model verify FOLDER` compares every file with its hash.\n",
        "## What it was trained on\n",
        "".join(_describe_training(content)),
        "## Figures\n",
        _format_figures(content),
        "## What it reads\n",
        _format_extractors(content),
        "## Provenance\n",
        "".join(f"- {line}\n" for line in _describe_provenance(content, options.license)),
    ]
    if options.notes:
        sections += ["", options.notes.rstrip() + "\n"]
    return "\n".join(sections)


def _format_metadata(name: str, content: PackageContent, license_name: str) -> str:
    """Format the YAML block of the hub. Its values are JSON, which is YAML."""
    metadata: dict[str, object] = {
        "license": license_name,
        "library_name": LIBRARY,
        "pipeline_tag": "feature-extraction",
        "tags": ["tern", "image-text-retrieval", "cross-modal-retrieval", "image-search"],
    }
    if content.origin.dataset:
        metadata["datasets"] = [re.sub(r"[^\w.-]+", "-", content.origin.dataset)]
    if content.evaluation.splits:
        results = [
            _make_result(content.evaluated_on or UNKNOWN, split, evaluation)
            for split, evaluation in content.evaluation.splits.items()
        ]
        metadata["model-index"] = [{"name": name, "results": results}]
    lines = (f"{key}: {json.dumps(value)}\n" for key, value in metadata.items())
    return f"---\n{''.join(lines)}---\n"


def _make_result(dataset: str, split: str, evaluation: SplitEvaluation) -> object:
    """Make one entry of `model-index`: the recalls of a split."""
    values = evaluation.metrics.flat()
    metrics = [
        {"type": f"recall_at_{k}", "name": f"R@{k}, {label}", "value": round(values[f"{key}_r{k}"], 2)}
        for key, label in DIRECTIONS.items()
        for k in (1, 5, 10)
    ]
    return {
        "task": {"type": "image-text-retrieval", "name": "Image-text retrieval"},
        "dataset": {"type": re.sub(r"[^\w.-]+", "-", dataset), "name": dataset, "split": split},
        "metrics": [*metrics, {"type": "rsum", "name": "Sum of the six recalls", "value": round(values["rsum"], 1)}],
    }


def _describe_training(content: PackageContent) -> Iterator[str]:
    origin = content.origin
    if origin.dataset:
        counts = ", ".join(f"{count:,} {escape_markdown(split)}" for split, count in origin.images.items())
        yield f"The dataset {escape_markdown(origin.dataset)}: {counts} images, {origin.captions:,} captions.\n"
    else:
        yield f"It was trained on {UNKNOWN}.\n"
    if origin.epoch is not None:
        settings = json.dumps(origin.training or {}, sort_keys=True)
        yield f"The weights are those of epoch {origin.epoch}, the best one on `val`. Settings of `[train]` that are "
        yield f"not the default: `{settings}`.\n"


def _format_figures(content: PackageContent) -> str:
    """Format a table of recalls with the sizes of the splits and the level of chance."""
    if not content.evaluation.splits:
        return "None were measured: there were no captions.\n"
    rows = [
        f"Measured on {escape_markdown(content.evaluated_on or UNKNOWN)}; chance is a random ranking.\n",
        "| split | direction | images | captions | R@1 | R@5 | R@10 | median rank | chance R@1, R@5, R@10 | rsum |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for split, evaluation in content.evaluation.splits.items():
        values = evaluation.metrics.flat()
        chance = evaluation.chance.model_dump() if evaluation.chance else {}
        for key, label in DIRECTIONS.items():
            levels = ", ".join(f"{chance[f'{key}_r{k}']:.2f}" for k in (1, 5, 10)) if chance else "not computed"
            figures = " | ".join(f"{values[f'{key}_{metric}']:.1f}" for metric in SHOWN)
            rows.append(
                f"| {escape_markdown(split)} | {label} | {evaluation.images:,} | {evaluation.captions:,} | {figures} | "
                f"{levels} | {values['rsum']:.1f} |"
            )
    return "\n".join(rows) + "\n"


def _format_extractors(content: PackageContent) -> str:
    rows = ["| features | extractor | numbers per row | weights | sha256 of the weights |", "|---|---|---|---|---|"]
    card, extractors = content.card, content.extractors
    for label, extractor, dim in (
        ("regions", extractors.regions, card.region_dim),
        ("tokens", extractors.text, card.token_dim),
    ):
        kind = escape_markdown(_describe_kind(extractor))
        source, sha256 = escape_markdown(extractor.source), extractor.weights_sha256 or "not known"
        rows.append(f"| {label} | {kind} | {dim:,} | {source} | `{sha256}` |")
    return "\n".join(rows) + "\n"


def _describe_kind(extractor: PackageExtractor) -> str:
    if extractor.settings is None:
        return "features of another program"
    parts = (extractor.settings.get(key) for key in ("kind", "model", "layer"))
    return " ".join(str(part) for part in parts if part is not None)


def _describe_provenance(content: PackageContent, license_name: str) -> Iterator[str]:
    card, origin = content.card, content.origin
    yield f"Written by {LIBRARY} {origin.program} from the model `{escape_markdown(origin.model)}`."
    if origin.checkpoint is not None:
        yield f"Its weights were imported from {escape_markdown(origin.checkpoint)} (sha256 `{origin.sha256}`)."
    shape = card.model
    yield f"{card.num_parameters:,} parameters, vectors of {shape.embed_dim:,} numbers, network `{shape.architecture}`."
    if content.calibration is not None:
        found = content.calibration
        yield (
            f"Calibration: {len(found.caption):,} captions and {len(found.image):,} images of `{found.split}`, scored "
            f"against {found.num_images:,} images and {found.num_captions:,} captions."
        )
    data = f" ({escape_markdown(origin.dataset)})" if origin.dataset else ""
    yield (
        f"License of this package: {escape_markdown(license_name)}. The terms of the training data{data} and of the "
        "extractors apply too."
    )
