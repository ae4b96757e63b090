"""HTTP search service: a page with a search box, and the same results as JSON. `tern serve` runs it."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from index.search import HotReloader
from index.versions import resolve_version
from pipeline.pages.cards import make_cards
from pipeline.pages.render import render_page
from pipeline.plans.plan import Plan
from pipeline.runs import describe_extractor
from pipeline.search.hits import Hit
from pipeline.search.searcher import Searcher

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import HTMLResponse
except ImportError as error:
    raise ImportError("The search service needs the extra `serve`. Run `pip install -e '.[serve]'`.") from error

MAX_UPLOAD_BYTES = 25 << 20
K = Annotated[int, Query(ge=1, le=100, description="Maximum number of hits.")]
Where = Annotated[str, Query(description="Filter over the metadata, such as split = 'test' and width >= 640.")]
Version = Annotated[str, Query(max_length=64, description="Version number or tag; empty for the published version.")]


def create_app(reloader: HotReloader[Searcher]) -> FastAPI:
    """Create the service.

    GET / is the page, GET /search finds images for a text, POST /search/image captions for a photo.

    Args:
        reloader: Provides the searcher of the published version, or of a version that a request names.
    """
    app = FastAPI(title="TERN search", docs_url="/docs", redoc_url=None)

    @app.get("/", response_class=HTMLResponse)
    def show_page(q: str = "", k: K = 12, where: Where = "", version: Version = "") -> str:
        hits, problem, notes = [], "", []
        with _borrow_searcher(reloader, version) as searcher:
            if q.strip():
                try:
                    hits = searcher.search_text(q, k, where.strip() or None)
                    notes = [note for note in [searcher.describe_unknown(q)] if note]
                except ValueError as error:
                    problem = str(error)
            return render_page(
                "search.html",
                query=q,
                where=where,
                pinned=version,
                version=searcher.index.version,
                cards=make_cards(hits),
                problem=problem,
                notes=[*notes, *describe_extractor(searcher.plan)],
            )

    @app.get("/search")
    def search_text(q: str, k: K = 10, where: Where = "", version: Version = "") -> dict[str, Any]:
        return _answer(reloader, version, lambda searcher: searcher.search_text(q, k, where.strip() or None), q)

    @app.post("/search/image")
    async def search_image(request: Request, k: K = 10, where: Where = "", version: Version = "") -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photo"  # a fixed name: a name sent by the client could leave the folder
            await _save_body(request, path)
            return await run_in_threadpool(
                _answer, reloader, version, lambda searcher: searcher.search_image(path, k, where.strip() or None)
            )

    return app


@contextmanager
def _borrow_searcher(reloader: HotReloader[Searcher], version: str) -> Iterator[Searcher]:
    """Provide the searcher of a version; HTTP 404 if the version does not exist or did not pass its gate."""
    with ExitStack() as stack:
        try:
            number = resolve_version(reloader.root, version) if version else None
            searcher = stack.enter_context(reloader.borrow(number))
        except (ValueError, FileNotFoundError) as error:
            # The text of the error contains paths of this machine, so the answer does not repeat it.
            raise HTTPException(404, f"The index has no version {version!r}.") from error
        if searcher.index.manifest.is_rejected:
            raise HTTPException(404, f"Version {version!r} did not pass its gate.")
        yield searcher


async def _save_body(request: Request, path: Path) -> None:
    """Write the body of a request to a file; HTTP 413 as soon as it is larger than `MAX_UPLOAD_BYTES`."""
    size = 0
    with open(path, "wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_UPLOAD_BYTES:
                raise HTTPException(413, f"The photo is larger than {MAX_UPLOAD_BYTES:,} bytes. Send a smaller one.")
            file.write(chunk)


def _answer(
    reloader: HotReloader[Searcher], version: str, search: Callable[[Searcher], list[Hit]], text: str = ""
) -> dict[str, Any]:
    """Run a search; HTTP 422 if the query or the filter is invalid. Notes which part of a text query is unknown."""
    with _borrow_searcher(reloader, version) as searcher:
        try:
            hits = search(searcher)
        except ValueError as error:
            raise HTTPException(422, re.sub(r"/\S+/photo", "the photo", str(error))) from error
        note = searcher.describe_unknown(text) if text else ""
        answer = {"version": searcher.index.version, "hits": [_to_json(hit) for hit in hits]}
        return answer | ({"note": note} if note else {})


def _to_json(hit: Hit) -> dict[str, Any]:
    """Convert a hit without its path, which is a path of this machine."""
    return {key: value for key, value in asdict(hit).items() if key != "path"}


def serve(plan: Plan, host: str, port: int) -> None:
    """Run the service until Ctrl-C. A version that is published meanwhile is served within a second."""
    searcher = Searcher(plan)
    app = create_app(HotReloader(searcher.index.root, searcher.with_version))
    uvicorn.run(app, host=host, port=port, log_level="info")
