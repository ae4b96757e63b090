"""Examples of what an index can be asked, each with an image: for the start page of the service and for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from index.metadata import Row, sample_rows
from index.search import Index
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.query import SearchRequest, make_text_query

NUM_EXAMPLES = 8
HELD_OUT = ("test", "val")  # splits of the examples: the model was not trained on them
# Asked of an index without captions; those that find something are shown.
SENTENCES = (
    "two people are talking",
    "a dog in the grass",
    "a child is playing",
    "people at the sea",
    "a mountain with snow",
    "a street in a city",
    "a plate of food",
    "a building",
    "a car",
    "a sunset",
    "a crowd of people",
    "a cat",
    "a boat",
    "flowers",
    "a bicycle",
    "water",
)


@dataclass(frozen=True)
class Example:
    """An image of an index, and what finds it.

    Attributes:
        image_id: id of the image
        text: one of its captions, or a sentence that finds it; None if there is none: the image itself is the query
    """

    image_id: str
    text: str | None


def find_examples(searcher: IndexSearcher) -> list[Example]:
    """Choose up to `NUM_EXAMPLES` images, with captions where the index has some, else with sentences that find them.

    Images without a sentence are last. The same index gives the same examples.
    """
    index = searcher.index
    if "image" not in index.kinds:
        return []
    rows = index.collection("image").rows
    images = sample_rows(rows, NUM_EXAMPLES, HELD_OUT)
    images += [row for row in sample_rows(rows, 2 * NUM_EXAMPLES) if row not in images]
    images = images[:NUM_EXAMPLES]
    examples = _add_captions(index, images)
    if not images or any(example.text for example in examples):
        return examples
    found = find_image_of_each(searcher, SENTENCES)
    known = {example.image_id for example in found}
    return [*found, *(example for example in examples if example.image_id not in known)][:NUM_EXAMPLES]


def find_image_of_each(searcher: IndexSearcher, texts: Sequence[str]) -> list[Example]:
    """Search images with texts; return those that find one, surest first, each with another image."""
    answers = searcher.answer([SearchRequest(make_text_query(text), k=1, explain=False) for text in texts])
    found = []
    for text, answer in zip(texts, answers, strict=True):
        if not isinstance(answer, ValueError) and answer.hits:  # a model of another language knows none of the words
            hit = answer.hits[0]
            found.append((hit.score if hit.probability is None else hit.probability, hit.image_id, text))
    examples: dict[str, Example] = {}
    for _, image_id, text in sorted(found, key=lambda one: -one[0]):
        examples.setdefault(image_id, Example(image_id, text))
    return list(examples.values())


def _add_captions(index: Index, images: Sequence[Row]) -> list[Example]:
    """Add to each image the shortest of its captions that no image before it has."""
    has_captions = "caption" in index.kinds
    captions = index.get_metadata_by_image("caption", [row.id for row in images]) if has_captions else {}
    texts: set[str] = set()
    examples = []
    for row in images:
        own = [caption.text for caption in captions.get(row.id, []) if caption.text]
        text = min((text for text in own if text not in texts), key=len, default=None)
        texts |= {text} if text else set()
        examples.append(Example(row.id, text))
    return examples
