"""The search page of the service, the page that describes the API, and their style. They need no script."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import Depends, FastAPI, Query
from fastapi.responses import HTMLResponse, Response

from pipeline.pages.cards import HitCard, make_linked_card
from pipeline.pages.render import render_page
from pipeline.plans.notes import describe_extractor
from pipeline.search.hits import Answer, Hit
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.query import (
    AVOIDED_BESIDE_IMAGE,
    AVOIDED_BESIDE_TEXT,
    ImagePart,
    QueryPart,
    SearchRequest,
    TextPart,
)
from pipeline.search.query import Query as SearchQuery
from pipeline.service.api import parameters as p
from pipeline.service.api.backend import Backend
from pipeline.service.api.dispatcher import Results
from pipeline.service.api.openapi import INTRODUCTION, list_operations

STYLE_SECONDS = 300  # for which a browser does not ask for a style again


@dataclass(frozen=True)
class PageForm:
    """What the form of the page asks for."""

    q: Annotated[str, Query(description="Text query.")] = ""
    without: Annotated[str, Query(description="Text of what the results avoid.")] = ""
    like: Annotated[str, Query(max_length=1_000, description="Id of an image of the index to start from.")] = ""
    k: p.K = 12
    offset: p.Offset = 0
    where: p.Where = ""
    version: p.Version = ""
    min_probability: p.MinProbability = None

    def make_requests(self) -> list[SearchRequest]:
        """Make the search; none if the form is empty."""
        parts: list[QueryPart] = [ImagePart(self.like)] if self.like else []
        parts += [TextPart(self.q)] if self.q.strip() else []
        if not parts:
            return []
        if self.without.strip():
            parts.append(TextPart(self.without, -(AVOIDED_BESIDE_TEXT if self.q.strip() else AVOIDED_BESIDE_IMAGE)))
        return [
            SearchRequest(
                SearchQuery(tuple(parts)), self.k, self.offset, self.where.strip() or None, self.min_probability
            )
        ]

    def make_address(self, **changes: str | int) -> str:
        """Return the address of the page with some values changed; empty values are left out."""
        default = PageForm()
        values = {**asdict(self), **changes}
        return "?" + urlencode({name: value for name, value in values.items() if value != getattr(default, name)})


def add_page_routes(app: FastAPI, backend: Backend) -> None:
    """Add `GET /`, `/page.css` and `/api/v1/docs`."""

    @app.get("/", include_in_schema=False)
    async def show_page(form: Annotated[PageForm, Depends()]) -> HTMLResponse:
        page = await backend.queries.run(form.version, form.make_requests(), partial(_render_results, form))
        return HTMLResponse(page)

    @app.get("/page.css", include_in_schema=False)
    async def send_style() -> Response:
        headers = {"Cache-Control": f"max-age={STYLE_SECONDS}"}
        return Response(render_page("page.css"), media_type="text/css", headers=headers)

    @app.get("/api/v1/docs", include_in_schema=False)
    async def show_api() -> HTMLResponse:
        operations = list_operations(app.openapi())
        return HTMLResponse(render_page("api.html", introduction=INTRODUCTION, operations=operations))


def _render_results(form: PageForm, searcher: IndexSearcher, results: Results) -> str:
    notes = [*describe_extractor(searcher.plan)]
    answer, problem = Answer(()), ""
    for result in results:
        if isinstance(result, ValueError):
            problem = str(result)
        else:
            answer = result
            notes = [note for note in [answer.note] if note] + notes
    make_card = partial(_make_card, form)
    has_more = len(answer.hits) + len(answer.weak) == form.k and form.offset + form.k <= p.MAX_OFFSET
    return render_page(
        "search.html",
        form=form,
        is_empty=not results,
        version=searcher.index.version,
        cards=tuple(map(make_card, answer.hits)),
        weak_cards=tuple(map(make_card, answer.weak)),
        problem=problem,
        notes=notes,
        previous_page=form.make_address(offset=max(0, form.offset - form.k)) if form.offset else "",
        next_page=form.make_address(offset=form.offset + form.k) if has_more else "",
    )


def _make_card(form: PageForm, hit: Hit) -> HitCard:
    query = f"?{urlencode({'version': form.version})}" if form.version else ""
    similar = PageForm(like=hit.image_id, where=form.where, version=form.version).make_address()
    return make_linked_card(hit, f"api/v1/thumbnails/{quote(hit.image_id)}{query}", similar)
