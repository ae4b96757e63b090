"""Whether words name the right regions, whose removal lowers the score, on the facts of the demo dataset."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.alignment import Embeddings, combine_scores, compute_alignment_scores
from data.demo import iter_nouns
from data.demo.write import BOXES
from extractors.torch_free import Word
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.search import Searcher, WordMatch
from pipeline.search.stored_images import StoredImage
from pipeline.search.word_matches import choose_regions, match_words
from tern.query import ImageRegions

MIN_IOU = 0.5  # of the region of a noun with a box of its kind
IMAGES_REMOVED = 40  # of the split; regions are removed from these in turn


@dataclass(frozen=True)
class _Noun:
    """A noun of a caption whose kind has visible boxes in the scene."""

    match: WordMatch
    is_right: np.ndarray
    """(r,) bool: whether the region overlaps a visible box of the kind."""
    num_boxes: int


def faithful(folder: Path, split: str = "test") -> None:
    """Print the figures for a run of the plan `demo` in `folder`, which is finished first if it is not."""
    plan = load_plan("demo", (f'workspace="{folder}"',))
    dataset = PipelineRunner(plan).run_all().features.dataset.select_split(split)
    facts = json.loads((folder / "dataset" / BOXES).read_text())
    searcher, counts = Searcher(plan), defaultdict[str, list[float]](list)
    captions_by_image = dataset.captions_by_image_id
    texts = [caption.text for captions in captions_by_image.values() for caption in captions]
    embeddings, first = searcher._encoder.embed_texts(texts), 0
    for number, (image_id, captions) in enumerate(captions_by_image.items()):
        scene = _Scene(searcher, image_id, facts["images"][image_id], number < IMAGES_REMOVED)
        for caption in captions:
            scene.measure(caption.text, embeddings.select([first]), counts)
            first += 1
    table = Table("measure", "share", "cases", title=f"{len(captions_by_image)} images of {split}, {first} captions")
    for name, values in counts.items():
        table.add_row(name, f"{np.mean(values):.3f}", str(len(values)))
    Console(width=140).print(table)


class _Scene:
    """An image of the split with its facts; with the vectors of the image without each region, if they are needed."""

    def __init__(self, searcher: Searcher, image_id: str, facts: dict[str, list], is_removed: bool) -> None:
        self._encoder, index = searcher._encoder, searcher.index
        collection, images = index.collection("image"), searcher.stored_images
        assert collection.row_vectors is not None
        assert collection.manifest.alignment is not None
        assert images is not None
        self._rows = collection.row_vectors.get(np.array([index.get_metadata([image_id])[image_id].key]))
        self._weight = collection.manifest.alignment.alignment_weight
        self._stored = images.read_boxes([image_id])[image_id]
        self._boxes, self._labels = np.array(facts["boxes"]), np.array(facts["labels"])
        (image,) = images.read_images([image_id])
        self._variants = self._encoder.embed_regions(_make_variants(image)) if is_removed else None

    def measure(self, text: str, query: Embeddings, counts: dict[str, list[float]]) -> None:
        """Measure the nouns of a caption."""
        assert query.rows is not None
        words = self._encoder.find_words(text)
        matches = match_words(words, query.rows, self._rows, self._stored)
        nouns = list(self._iter_nouns(text, words, matches))
        for noun in nouns:
            is_right = bool(noun.is_right[noun.match.region])
            counts["right region, all nouns"].append(is_right)
            if noun.num_boxes == 1:
                counts["right region, one such thing in the scene"].append(is_right)
            counts["right region, of things that the detector finds"] += [is_right] * bool(noun.is_right.any())
        if self._variants is None or not matches:
            return
        assert self._variants.rows is not None
        alignments = compute_alignment_scores(query.rows, self._variants.rows)
        scores = combine_scores(self._variants.vectors @ query.vectors[0], alignments, self._weight)
        drops, named = scores[0] - scores[1:], {match.region for match in matches}
        boxes = [tuple(box) for box in self._stored.boxes.tolist()]
        for region in choose_regions(matches)[:1]:
            first = boxes.index(region.box)
            others = [i for i in range(len(drops)) if i != first]
            counts["removal of the first outlined region lowers it more than that of any other region"] += [
                float(drops[first] > drops[i]) for i in others
            ]
        for noun in nouns:
            drop = drops[noun.match.region]
            others = [i for i in range(len(drops)) if i != noun.match.region]
            counts["removal lowers the score"].append(drop > 0)
            for name, chosen in (
                ("removal lowers it more than that of any other region", others),
                (
                    "removal lowers it more than that of a region that no word names",
                    [i for i in others if i not in named],
                ),
            ):
                counts[name] += [float(drop > drops[i]) for i in chosen]

    def _iter_nouns(self, text: str, words: list[Word], matches: tuple[WordMatch, ...]) -> Iterator[_Noun]:
        match_by_end = {word.end: match for word, match in zip(words, matches, strict=False)}
        for noun in iter_nouns(text):
            boxes, match = self._boxes[self._labels == noun.kind], match_by_end.get(noun.end)
            if match is not None and len(boxes):
                yield _Noun(match, _find_overlapping(self._stored.boxes, boxes), len(boxes))


def _make_variants(image: StoredImage) -> list[ImageRegions]:
    features, boxes, size, scores = image.regions
    variants = [image.regions]
    for i in range(len(boxes) if len(boxes) > 1 else 0):
        variants.append((np.delete(features, i, 0), np.delete(boxes, i, 0), size, np.delete(scores, i)))
    return variants


def _find_overlapping(boxes: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return which boxes (r, 4) overlap one of the right boxes (n, 4) with an IoU of at least `MIN_IOU`: (r,) bool."""
    corner = np.maximum(boxes[:, None, :2], right[None, :, :2]), np.minimum(boxes[:, None, 2:], right[None, :, 2:])
    shared = np.clip(corner[1] - corner[0], 0, None).prod(axis=2)  # (r, n)
    areas = [(part[:, 2] - part[:, 0]) * (part[:, 3] - part[:, 1]) for part in (boxes, right)]
    is_right: np.ndarray = (shared / (areas[0][:, None] + areas[1][None] - shared) >= MIN_IOU).any(axis=1)
    return is_right
