"""Head of the report: what is indexed, what it can be asked, and examples with pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.text import printable
from pipeline.pages.cards import SMALL_THUMBNAIL, make_thumbnail, to_data_uri
from pipeline.plan_files import find_plan_file
from pipeline.plans.plan import Plan
from pipeline.search.contents import IndexContents, describe_contents
from pipeline.search.examples import NUM_EXAMPLES, Example, find_examples, find_image_of_each
from pipeline.search.hits import Hit
from pipeline.search.index_searcher import IndexSearcher


@dataclass(frozen=True)
class ExampleCard:
    """An example of what the index can be asked.

    Attributes:
        image: data URI of the thumbnail
        image_id: id of the image
        text: sentence that finds the image or is its caption; None: the image itself is the query
        gallery: number of the query of the report with this text, from 1; None if the report has none
    """

    image: str
    image_id: str
    text: str | None
    gallery: int | None


@dataclass(frozen=True)
class ReportStart:
    """Head of a report.

    Attributes:
        contents: what the index holds
        examples: up to `NUM_EXAMPLES` examples
        plan_option: option that names the plan in commands; empty for the plan that is the default
    """

    contents: IndexContents
    examples: tuple[ExampleCard, ...]
    plan_option: str


def make_start(searcher: IndexSearcher, plan: Plan) -> ReportStart:
    """Make the head of the report of a plan."""
    examples = make_example_cards(searcher, plan.report.queries)
    return ReportStart(describe_contents(searcher), tuple(examples), write_plan_option(plan))


def write_plan_option(plan: Plan) -> str:
    """Write the option that names a plan in the commands of the report; empty for the plan that is the default.

    A report may be given to others, so the option has no path of this machine.
    """
    if plan.dataset is None:
        return ""
    return " --plan FOLDER" if find_plan_file(plan.dataset.images).is_file() else " --plan PLAN"


def make_example_cards(searcher: IndexSearcher, queries: Sequence[str]) -> list[ExampleCard]:
    """Make up to `NUM_EXAMPLES` cards: queries of the report with their first hit, then other examples of the index.

    Args:
        searcher: Searcher of the index.
        queries: Queries of the report. Those that find nothing, or only weak hits, are no examples.
    """
    numbers = {query: number for number, query in enumerate(queries, 1)}
    examples = find_image_of_each(searcher, list(numbers)[: 2 * NUM_EXAMPLES]) if numbers else []
    examples.sort(key=lambda example: numbers[example.text or ""])
    if len(examples) < NUM_EXAMPLES:
        known = {example.image_id for example in examples}
        examples += [example for example in find_examples(searcher) if example.image_id not in known]
    return [_make_card(searcher, example, numbers) for example in examples[:NUM_EXAMPLES]]


def _make_card(searcher: IndexSearcher, example: Example, numbers: dict[str, int]) -> ExampleCard:
    path = searcher.find_image(example.image_id)
    thumbnail = make_thumbnail(Hit("", 0.0, path or Path(), ()), SMALL_THUMBNAIL)
    text = None if example.text is None else printable(example.text)
    return ExampleCard(to_data_uri(thumbnail), printable(example.image_id), text, numbers.get(example.text or ""))
