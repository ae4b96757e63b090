"""The search service: a page with a search box, and the same hits as JSON. Loopback by default."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pipeline.gallery import card, templates
from pipeline.plan import Plan
from pipeline.search import Hit, Searcher

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Query, UploadFile
    from fastapi.responses import HTMLResponse
except ImportError as error:
    raise ImportError("the search service needs the extra `serve`: pip install -e '.[serve]'") from error

MAX_UPLOAD_BYTES = 25 << 20
K = Annotated[int, Query(ge=1, le=100)]


def application(searcher: Searcher) -> FastAPI:
    """The service over one opened index.

    GET / (page), GET /search?q=&k= (images for a sentence), POST /search/image (captions for an uploaded photograph).
    """
    app = FastAPI(title="TERN search", docs_url="/docs", redoc_url=None)

    @app.get("/", response_class=HTMLResponse)
    def page(q: str = "", k: K = 12) -> str:
        hits, problem = [], ""
        if q.strip():
            try:
                hits = searcher.by_text(q, k)
            except ValueError as error:
                problem = str(error)
        shown = {"query": q, "cards": [card(hit) for hit in hits], "problem": problem}
        return templates.get_template("search.html").render(**shown, version=searcher.index.version)

    @app.get("/search")
    def by_text(q: str, k: K = 10) -> dict[str, Any]:
        return _answer(searcher, lambda: searcher.by_text(q, k))

    @app.post("/search/image")
    def by_image(photo: UploadFile, k: K = 10) -> dict[str, Any]:
        content = photo.file.read(MAX_UPLOAD_BYTES + 1)
        if len(content) > MAX_UPLOAD_BYTES:
            raise HTTPException(413, f"the photograph has more than {MAX_UPLOAD_BYTES:,} bytes")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photo"  # never the name that the client sent
            path.write_bytes(content)
            return _answer(searcher, lambda: searcher.by_image(path, k))

    return app


def _answer(searcher: Searcher, find: Any) -> dict[str, Any]:
    try:
        hits = find()
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return {"version": searcher.index.version, "hits": [_public(hit) for hit in hits]}


def _public(hit: Hit) -> dict[str, Any]:
    """A hit without the place of its file on this machine."""
    return {key: value for key, value in asdict(hit).items() if key != "path"}


def run(plan: Plan, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    uvicorn.run(application(Searcher(plan)), host=host, port=port, log_level="info")
