"""HTTP search service: a page with a search box, and an API of JSON for programs. `tern serve` runs it."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from index.search import HotReloader
from pipeline.search.index_searcher import IndexSearcher
from pipeline.service.access.bearer_tokens import BearerTokens

try:
    from fastapi import Depends, FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise ImportError(
        "The search service needs the extra `serve`. Run `python -m pip install -c constraints.txt -e '.[serve]'`."
    ) from error

from pipeline.service.access.guard import LOOPBACK_HOSTS, Guard, check_parameters
from pipeline.service.api.backend import Backend
from pipeline.service.api.images import add_image_routes
from pipeline.service.api.openapi import install_openapi
from pipeline.service.api.overview import add_overview_routes
from pipeline.service.api.search import add_search_routes
from pipeline.service.api.status import add_status_routes
from pipeline.service.metrics import Metrics
from pipeline.service.page.routes import add_page_routes
from pipeline.service.problems import InvalidRequestError, explain_error, make_problem_response

API_VERSION = "1"


def create_app(
    reloader: HotReloader[IndexSearcher],
    allowed_hosts: Collection[str] = LOOPBACK_HOSTS,
    tokens: BearerTokens | None = None,
    metrics_folder: Path | None = None,
) -> FastAPI:
    """Create the service. Its shutdown closes the reloader.

    GET / is the page, and the routes below /api/v1 are for programs. A request that would have to wait for too many
    others gets status 503.

    Args:
        reloader: Provides the searcher of the published version, or of a version that a request names.
        allowed_hosts: Hosts that requests may name, see `pipeline.service.access.guard.list_allowed_hosts`.
        tokens: Tokens of which each request must have one; None answers requests without a token.
        metrics_folder: Folder in which several processes of the service keep their metrics; None: this process only.
    """
    metrics = Metrics(metrics_folder)
    backend = Backend(reloader, metrics)

    @asynccontextmanager
    async def follow_index(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(backend.follow())
        yield
        task.cancel()
        backend.close()

    app = FastAPI(
        title="TERN search",
        version=API_VERSION,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=follow_index,
        dependencies=[Depends(check_parameters)],
    )
    app.add_middleware(Guard, allowed_hosts=frozenset(allowed_hosts), tokens=tokens, metrics=metrics)
    for add_routes in (add_search_routes, add_image_routes, add_overview_routes, add_status_routes):
        add_routes(app, backend)
    add_page_routes(app)
    for kind in (HTTPException, RequestValidationError, InvalidRequestError):
        app.add_exception_handler(kind, _answer_with_problem)
    install_openapi(app)
    return app


def _answer_with_problem(_: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, HTTPException) else None
    return make_problem_response(explain_error(error), headers)
