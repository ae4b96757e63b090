"""The files of the search page, the style sheet of all pages, and the page that describes the API."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from pipeline.pages.render import render_page
from pipeline.service.api.openapi import INTRODUCTION, list_operations

START_PAGE = "index.html"
STYLE_SHEET = "style.css"  # of the reports too; a template, because it contains the colors of regions
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str


def read_page_files() -> dict[str, PageFile]:
    """Read the files of the page by their paths below the folder `static`."""
    root = files("pipeline.service.page") / "static"
    contents = {STYLE_SHEET: render_page(STYLE_SHEET).encode()}
    for entry in root.iterdir():
        if entry.is_dir():
            contents |= {f"{entry.name}/{child.name}": child.read_bytes() for child in entry.iterdir()}
        else:
            contents[entry.name] = entry.read_bytes()
    return {
        name: PageFile(content, MEDIA_TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        for name, content in contents.items()
        if (suffix := PurePosixPath(name).suffix) in MEDIA_TYPES
    }


def add_page_routes(app: FastAPI) -> None:
    """Add `GET /`, `/static/...` and `/api/v1/docs`. The files contain nothing of the index, so they need no token."""
    page_files = read_page_files()

    @app.get("/", include_in_schema=False)
    async def show_page(request: Request) -> Response:
        return _send(request, page_files[START_PAGE])

    @app.get("/static/{name:path}", include_in_schema=False)
    async def send_file(request: Request, name: str) -> Response:
        if name not in page_files:
            raise HTTPException(404, "The page has no such file. Open the address of the service without a path.")
        return _send(request, page_files[name])

    @app.get("/api/v1/docs", include_in_schema=False)
    async def show_api() -> HTMLResponse:
        operations = list_operations(app.openapi())
        return HTMLResponse(render_page("api.html", introduction=INTRODUCTION, operations=operations))


def _send(request: Request, file: PageFile) -> Response:
    # Modules of two versions of the program do not work together, so a browser asks for each of them every time.
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
