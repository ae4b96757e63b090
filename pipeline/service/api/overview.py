"""What is indexed over HTTP: the columns that filters may name, and what the start page of the service shows."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from fastapi import FastAPI, HTTPException

from index.metadata import Column, describe_columns
from index.search import Index
from pipeline.plans.notes import describe_extractor
from pipeline.search.contents import describe_contents
from pipeline.search.examples import find_examples
from pipeline.search.index_searcher import IndexSearcher
from pipeline.service.api import parameters as p
from pipeline.service.api.answer_body import ColumnBody, ColumnsBody, ExampleBody, OverviewBody, ValueBody
from pipeline.service.api.backend import Backend
from pipeline.service.api.query_body import TARGETS

T = TypeVar("T", ColumnsBody, OverviewBody)
MAX_KEPT = 16  # bodies of versions; a version never changes


def add_overview_routes(app: FastAPI, backend: Backend) -> None:
    """Add `GET /api/v1/columns` and `/api/v1/overview`."""
    kept = _KeptBodies()

    @app.get(
        "/api/v1/columns",
        tags=["versions"],
        summary="The columns that filters may name, with their types and values",
        responses={200: {"model": ColumnsBody}, **p.make_error_responses(404)},
    )
    async def show_columns(target: p.Target = "images", version: p.Version = "") -> ColumnsBody:
        def make(searcher: IndexSearcher) -> ColumnsBody:
            key = ("columns", target, searcher.index.version)
            return kept.get(key, lambda: _make_columns(searcher.index, TARGETS[target]))

        return await backend.read(version, make)

    @app.get(
        "/api/v1/overview",
        tags=["versions"],
        summary="What is indexed, what can be asked, and examples",
        responses={200: {"model": OverviewBody}, **p.make_error_responses(404)},
    )
    async def show_overview(version: p.Version = "") -> OverviewBody:
        def make(searcher: IndexSearcher) -> OverviewBody:
            return kept.get(("overview", "", searcher.index.version), lambda: _make_overview(searcher))

        return await backend.read(version, make)


class _KeptBodies:
    """Bodies by version: making them reads the metadata of all items."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[tuple[str, str, int], ColumnsBody | OverviewBody] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, int], make: Callable[[], T]) -> T:
        with self._lock:
            if (known := self._bodies.get(key)) is not None:
                return known  # type: ignore[return-value]  # the first item of the key is the type
        body = make()
        with self._lock:
            self._bodies[key] = body
            while len(self._bodies) > MAX_KEPT:
                self._bodies.popitem(last=False)
        return body


def _make_columns(index: Index, kind: str) -> ColumnsBody:
    if kind not in index.kinds:
        raise HTTPException(404, f"The index has no {kind}s. GET /api/v1/versions lists what it has.")
    captions = index.collection("caption").rows if "caption" in index.kinds else None
    columns = describe_columns(index.collection(kind).rows, captions, index.manifest.columns)
    return ColumnsBody(columns=[_make_column(column) for column in columns], version=index.version)


def _make_column(column: Column) -> ColumnBody:
    return ColumnBody(
        name=column.name,
        type=column.type,
        values=[ValueBody(value=value, count=count) for value, count in column.values],
        minimum=column.minimum,
        maximum=column.maximum,
    )


def _make_overview(searcher: IndexSearcher) -> OverviewBody:
    contents = describe_contents(searcher)
    return OverviewBody(
        counts=dict(contents.counts),
        columns=list(contents.columns),
        model=contents.model,
        published=contents.published,
        accepts_photos=searcher.accepts_photos,
        has_words=contents.has_words,
        has_boxes=contents.has_boxes,
        min_probability=contents.min_probability,
        notes=[note for note in (searcher.note, *describe_extractor(searcher.plan)) if note],
        examples=[ExampleBody(image_id=example.image_id, text=example.text) for example in find_examples(searcher)],
        version=contents.version,
    )
