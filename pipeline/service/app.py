"""HTTP search service: a page with a search box, and the same results as JSON. `tern serve` runs it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlencode

from index.metadata import FilterTimeoutError, limit_filter_time
from index.search import HotReloader
from index.versions import resolve_version
from pipeline.pages.cards import make_linked_card
from pipeline.pages.render import render_page
from pipeline.runs import describe_extractor
from pipeline.search.hits import Hit
from pipeline.search.searcher import Searcher

try:
    from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
    from fastapi.responses import HTMLResponse, JSONResponse
except ImportError as error:
    raise ImportError(
        "The search service needs the extra `serve`. Run `python -m pip install -c constraints.txt -e '.[serve]'`."
    ) from error

from pipeline.service.guard import LOOPBACK_HOSTS, Guard, check_parameters
from pipeline.service.limits import FILTER_SECONDS, MAX_BUFFERED_BYTES, ByteBudget, WorkQueue
from pipeline.service.thumbnails import ThumbnailCache
from pipeline.service.uploads import receive_upload

T = TypeVar("T")
FOLLOW_SECONDS = 1.0  # between two looks at the published version
THUMBNAIL_SECONDS = 300  # for which a browser does not ask for a thumbnail again
K = Annotated[int, Query(ge=1, le=100, description="Maximum number of hits.")]
Where = Annotated[str, Query(description="Filter over the metadata, such as split = 'test' and width >= 640.")]
Version = Annotated[str, Query(max_length=64, description="Version number or tag; empty for the published version.")]


def create_app(reloader: HotReloader[Searcher], allowed_hosts: Collection[str] = LOOPBACK_HOSTS) -> FastAPI:
    """Create the service. Its shutdown closes the reloader.

    GET / is the page, GET /search finds images for a text, POST /search/image captions for a photo. Searches, photos
    and thumbnails run in threads of their own, so that none of them stops the others. A request that would have to wait
    for too many others gets status 503.

    Args:
        reloader: Provides the searcher of the published version, or of a version that a request names.
        allowed_hosts: Hosts that requests may name, see `pipeline.service.guard.list_allowed_hosts`.
    """
    # One photo at a time, because the memory of a detector is that of one image. Threads of one kind are few: torch
    # and FAISS use all cores by themselves.
    queries, photos = WorkQueue("query", num_threads=2, max_waiting=64), WorkQueue("photo", 1, max_waiting=8)

    @asynccontextmanager
    async def follow_index(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_follow_index(reloader))
        yield
        task.cancel()
        queries.close()
        photos.close()
        reloader.close()

    app = FastAPI(
        title="TERN search",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=follow_index,
        dependencies=[Depends(check_parameters)],
    )
    app.add_middleware(Guard, allowed_hosts=frozenset(allowed_hosts))
    _add_search_routes(app, reloader, queries, photos)
    _add_thumbnail_route(app, reloader)
    _add_health_routes(app, reloader)
    return app


async def _follow_index(reloader: HotReloader[Searcher]) -> None:
    """Open new versions also while nobody searches, so that the version before is closed and no query waits."""
    queue = WorkQueue("reload", 1, max_waiting=0)

    def reload() -> None:
        with reloader.borrow():
            pass

    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        await queue.run(reload)


def _add_search_routes(app: FastAPI, reloader: HotReloader[Searcher], queries: WorkQueue, photos: WorkQueue) -> None:
    budget = ByteBudget(MAX_BUFFERED_BYTES)

    @app.get("/", response_class=HTMLResponse)
    async def show_page(q: str = "", k: K = 12, where: Where = "", version: Version = "") -> HTMLResponse:
        return HTMLResponse(await queries.run(lambda: _render_page(reloader, q, k, where, version)))

    @app.get("/search")
    async def search_text(q: str, k: K = 10, where: Where = "", version: Version = "") -> dict[str, Any]:
        def search(searcher: Searcher) -> list[Hit]:
            return searcher.search_text(q, k, where.strip() or None)

        return await queries.run(lambda: _answer(reloader, version, search, q))

    @app.post("/search/image")
    async def search_image(request: Request, k: K = 10, where: Where = "", version: Version = "") -> dict[str, Any]:
        photos.check_room()  # before the photo is read
        async with receive_upload(request, budget) as photo:

            def search(searcher: Searcher) -> list[Hit]:
                return searcher.search_image(photo, k, where.strip() or None)

            return await photos.run(lambda: _answer(reloader, version, search))


def _add_thumbnail_route(app: FastAPI, reloader: HotReloader[Searcher]) -> None:
    thumbnails, queue = ThumbnailCache(), WorkQueue("thumbnail", 1, max_waiting=128)

    @app.get("/thumbnails/{image_id:path}")
    async def send_thumbnail(request: Request, image_id: str, version: Version = "") -> Response:
        def get_thumbnail() -> Response:
            with _borrow_searcher(reloader, version) as searcher:
                path = searcher.find_image(image_id)
            thumbnail = None if path is None else thumbnails.get(path)
            if thumbnail is None:
                raise HTTPException(404, "The image is not in the index, or its file cannot be read.")
            headers = {"ETag": thumbnail.etag, "Cache-Control": f"private, max-age={THUMBNAIL_SECONDS}"}
            if thumbnail.etag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            return Response(thumbnail.content, media_type="image/jpeg", headers=headers)

        return await queue.run(get_thumbnail)


def _add_health_routes(app: FastAPI, reloader: HotReloader[Searcher]) -> None:
    # Neither waits for a thread: they answer while the service is busy.
    @app.get("/health")
    async def show_health() -> JSONResponse:
        return JSONResponse({"status": "alive", "version": reloader.served.index.version})

    @app.get("/ready")
    async def show_readiness() -> JSONResponse:
        is_current = reloader.last_error is None
        status = "ready" if is_current else "the newest version cannot be opened; see the log"
        return JSONResponse({"status": status, "version": reloader.served.index.version})


def _render_page(reloader: HotReloader[Searcher], query: str, k: int, where: str, version: str) -> str:
    hits, problem = [], ""
    with _borrow_searcher(reloader, version) as searcher:
        notes = [*describe_extractor(searcher.plan)]
        if query.strip():
            try:
                with limit_filter_time(FILTER_SECONDS):
                    hits = searcher.search_text(query, k, where.strip() or None)
                notes = [note for note in [searcher.describe_unknown(query)] if note] + notes
            except ValueError as error:
                problem = str(error)
        return render_page(
            "search.html",
            query=query,
            where=where,
            pinned=version,
            version=searcher.index.version,
            cards=tuple(make_linked_card(hit, _get_address(hit, version)) for hit in hits),
            problem=problem,
            notes=notes,
        )


def _get_address(hit: Hit, version: str) -> str:
    return f"thumbnails/{quote(hit.id)}" + (f"?{urlencode({'version': version})}" if version else "")


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


def _answer(
    reloader: HotReloader[Searcher], version: str, search: Callable[[Searcher], list[Hit]], text: str = ""
) -> dict[str, Any]:
    """Run a search; HTTP 422 if the query or the filter is invalid. Notes which part of a text query is unknown."""
    with _borrow_searcher(reloader, version) as searcher:
        try:
            with limit_filter_time(FILTER_SECONDS):
                hits = search(searcher)
        except FilterTimeoutError as error:
            raise HTTPException(400, f"{error} It may take {FILTER_SECONDS} seconds.") from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        note = searcher.describe_unknown(text) if text else ""
        answer = {"version": searcher.index.version, "hits": [_to_json(hit) for hit in hits]}
        return answer | ({"note": note} if note else {})


def _to_json(hit: Hit) -> dict[str, Any]:
    """Convert a hit without its path, which is a path of this machine."""
    return {key: value for key, value in asdict(hit).items() if key != "path"}
