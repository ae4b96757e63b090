"""The search service: a page with a search box, and the same hits as JSON. Loopback by default."""

import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pipeline.gallery import card, templates
from pipeline.plan import Plan
from pipeline.search import Hit, Searcher

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


def application(searcher: Searcher) -> FastAPI:
    """The service over one opened index.

    GET / (page), GET /search?q=&k=&where= (images for a sentence), POST /search/image (captions for a photograph).
    """
    app = FastAPI(title="TERN search", docs_url="/docs", redoc_url=None)

    @app.get("/", response_class=HTMLResponse)
    def page(q: str = "", k: K = 12, where: Where = "") -> str:
        hits, problem = [], ""
        if q.strip():
            try:
                hits = searcher.by_text(q, k, where.strip() or None)
            except ValueError as error:
                problem = str(error)
        shown = {"query": q, "where": where, "cards": [card(hit) for hit in hits], "problem": problem}
        return templates.get_template("search.html").render(**shown, version=searcher.index.version)

    @app.get("/search")
    def by_text(q: str, k: K = 10, where: Where = "") -> dict[str, Any]:
        return _answer(searcher, partial(searcher.by_text, q, k, where.strip() or None))

    @app.post("/search/image")
    async def by_image(request: Request, k: K = 10, where: Where = "") -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photo"  # never a name that the client sent
            await _receive(request, path)
            return await run_in_threadpool(
                _answer, searcher, partial(searcher.by_image, path, k, where.strip() or None)
            )

    return app


async def _receive(request: Request, path: Path) -> None:
    """Write a request's body to `path`; the first byte too many ends it."""
    size = 0
    with open(path, "wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > MAX_UPLOAD_BYTES:
                raise HTTPException(413, f"the photograph has more than {MAX_UPLOAD_BYTES:,} bytes")
            file.write(part)


def _answer(searcher: Searcher, find: Callable[[], list[Hit]]) -> dict[str, Any]:
    try:
        hits = find()
    except ValueError as error:
        raise HTTPException(422, re.sub(r"/\S+/photo", "the photograph", str(error))) from error
    return {"version": searcher.index.version, "hits": [_public(hit) for hit in hits]}


def _public(hit: Hit) -> dict[str, Any]:
    """A hit without the place of its file on this machine."""
    return {key: value for key, value in asdict(hit).items() if key != "path"}


def run(plan: Plan, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    uvicorn.run(application(Searcher(plan)), host=host, port=port, log_level="info")
