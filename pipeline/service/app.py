"""The search service: a page with a search box, and the same hits as JSON. Loopback by default."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from index.search import HotReloader
from index.versions import resolve_version
from pipeline.pages.cards import make_card, templates
from pipeline.plans.plan import Plan
from pipeline.search.hits import Hit
from pipeline.search.searcher import Searcher

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import HTMLResponse
except ImportError as error:
    raise ImportError("the search service needs the extra `serve`: pip install -e '.[serve]'") from error


MAX_UPLOAD_BYTES = 25 << 20
K = Annotated[int, Query(ge=1, le=100)]
Where = Annotated[str, Query(description="a filter over the metadata, such as split = 'test' and width >= 640")]
Version = Annotated[str, Query(max_length=64, description="A version's number or tag; empty: the one that is served.")]


def create_app(live: HotReloader[Searcher]) -> FastAPI:
    """The service over the version that is served, whichever that is from one request to the next.

    GET / (page), GET /search?q=&k= (images for a sentence), POST /search/image (captions for a photograph). All take
    `where`, a filter, and `version`, a number or a tag, to ask another one.
    """
    app = FastAPI(title="TERN search", docs_url="/docs", redoc_url=None)

    @app.get("/", response_class=HTMLResponse)
    def page(q: str = "", k: K = 12, where: Where = "", version: Version = "") -> str:
        hits, problem = [], ""
        with _asked(live, version) as searcher:
            if q.strip():
                try:
                    hits = searcher.search_text(q, k, where.strip() or None)
                except ValueError as error:
                    problem = str(error)
            asked = {"query": q, "where": where, "pinned": version, "version": searcher.index.version}
            shown = {"cards": [make_card(hit) for hit in hits], "problem": problem}
            return templates.get_template("search.html").render(asked | shown)

    @app.get("/search")
    def by_text(q: str, k: K = 10, where: Where = "", version: Version = "") -> dict[str, Any]:
        return _answer(live, version, lambda searcher: searcher.search_text(q, k, where.strip() or None))

    @app.post("/search/image")
    async def by_image(request: Request, k: K = 10, where: Where = "", version: Version = "") -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photo"  # never a name that the client sent
            await _receive(request, path)
            return await run_in_threadpool(
                _answer, live, version, lambda searcher: searcher.search_image(path, k, where.strip() or None)
            )

    return app


@contextmanager
def _asked(live: HotReloader[Searcher], version: str) -> Iterator[Searcher]:
    """The searcher of the version that a request names; 404 for one that is not there or did not pass its gate."""
    with ExitStack() as opened:
        try:
            number = resolve_version(live.root, version) if version else None
            searcher = opened.enter_context(live.borrow(number))
        except (ValueError, FileNotFoundError) as error:  # its text says where files lie
            raise HTTPException(404, f"there is no version {version!r} that can be asked") from error
        if searcher.index.manifest.is_rejected:
            raise HTTPException(404, f"version {version!r} did not pass its gate")
        yield searcher


async def _receive(request: Request, path: Path) -> None:
    """Write a request's body to `path`; the first byte too many ends it."""
    size = 0
    with open(path, "wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > MAX_UPLOAD_BYTES:
                raise HTTPException(413, f"the photograph has more than {MAX_UPLOAD_BYTES:,} bytes")
            file.write(part)


def _answer(live: HotReloader[Searcher], version: str, find_hits: Callable[[Searcher], list[Hit]]) -> dict[str, Any]:
    with _asked(live, version) as searcher:
        try:
            hits = find_hits(searcher)
        except ValueError as error:
            raise HTTPException(422, re.sub(r"/\S+/photo", "the photograph", str(error))) from error
        return {"version": searcher.index.version, "hits": [_public(hit) for hit in hits]}


def _public(hit: Hit) -> dict[str, Any]:
    """A hit without the place of its file on this machine."""
    return {key: value for key, value in asdict(hit).items() if key != "path"}


def serve(plan: Plan, host: str, port: int) -> None:
    """Serve until Ctrl-C; a version that is published meanwhile is served from the next second on."""
    first = Searcher(plan)
    uvicorn.run(create_app(HotReloader(first.index.root, first.with_version)), host=host, port=port, log_level="info")
