"""Divide the queries of a split into groups: by caption length and, on the demo, by objects and classes of words."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from data.datasets import Dataset
from data.demo import count_objects, find_word_classes, list_word_classes
from pipeline.plans.plan import Plan
from pipeline.workspace import Workspace
from tern.evaluation import DIRECTIONS, GroupMetrics, Ranks, SplitRanks, measure_group

LENGTHS = {5: "up to 5 words", 10: "6 to 10 words", 15: "11 to 15 words", 20: "16 to 20 words"}  # by the last length
LONGER = "over 20 words"
MAX_OBJECTS = 6  # images with as many objects or more are one group


@dataclass(frozen=True)
class GroupRow:
    """Metrics of one group of queries.

    Attributes:
        direction: key of `DIRECTIONS`
        kind: what the queries are divided by; empty for all queries
        name: the group
    """

    direction: str
    kind: str
    name: str
    metrics: GroupMetrics


def measure_groups(plan: Plan, dataset: Dataset, split: str, ranks: SplitRanks) -> list[GroupRow]:
    """Compute the metrics of each group of queries of a split; groups without queries are left out.

    Args:
        plan: Plan of the dataset; that of the demo has facts about the scenes.
        dataset: Valid dataset.
        split: Split of the ranks.
        ranks: Ranks of its queries.
    """
    captions = dataset.select_split(split).captions
    image_ids = {caption.id: caption.image_id for caption in captions}
    groups: list[tuple[str, str, list[str], Mapping[str, Collection[str]]]] = [
        ("t2i", "caption length", [*LENGTHS.values(), LONGER], {c.id: {_find_length(c.text)} for c in captions}),
    ]
    if plan.demo is not None:
        counts = count_objects(Workspace(plan.workspace).dataset)
        objects = {name: {_name_count(counts[name])} for name in set(image_ids.values())}
        names = [_name_count(count) for count in range(1, MAX_OBJECTS + 1)]
        groups += [
            ("t2i", "objects in the image", names, {c.id: objects[c.image_id] for c in captions}),
            ("t2i", "words of the caption", list_word_classes(), {c.id: find_word_classes(c.text) for c in captions}),
            ("i2t", "objects in the image", names, objects),
        ]
    rows = []
    for direction in DIRECTIONS:
        measure = _make_measure(ranks.get_direction(direction), image_ids)
        rows.append(GroupRow(direction, "", "all queries", measure(ranks.get_direction(direction))))
        for of_direction, kind, names, groups_by_query in groups:
            for name in names if of_direction == direction else ():
                if queries := [query for query, members in groups_by_query.items() if name in members]:
                    rows.append(GroupRow(direction, kind, name, measure(queries)))
    return rows


def _make_measure(ranks: Ranks, image_ids: Mapping[str, str]) -> Callable[[Iterable[str]], GroupMetrics]:
    """Make the function that measures some queries; the image of an image query is itself."""

    def measure(queries: Iterable[str]) -> GroupMetrics:
        queries = list(queries)
        images = {image_ids.get(query, query) for query in queries}
        return measure_group([ranks[query] for query in queries], len(images))

    return measure


def _find_length(caption: str) -> str:
    count = len(caption.split())
    return next((name for limit, name in LENGTHS.items() if count <= limit), LONGER)


def _name_count(count: int) -> str:
    if count >= MAX_OBJECTS:
        return f"{MAX_OBJECTS} or more objects"
    return f"{count} object{'' if count == 1 else 's'}"
