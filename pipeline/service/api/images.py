"""Images by id over HTTP: the original file, a small one, and the metadata. No request names a path."""

from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as UrlPath
from fastapi.responses import FileResponse

from data.images import find_image_container, find_shard, read_image, read_image_head, stat_image
from data.io import parse_columns
from index.metadata import Row
from pipeline.search.index_searcher import IndexSearcher
from pipeline.service.api import parameters as p
from pipeline.service.api.answer_body import CaptionBody, ItemBody, StoredRegionBody
from pipeline.service.api.backend import Backend
from pipeline.service.thumbnails.cache import ThumbnailCache
from pipeline.service.thumbnails.disk import open_disk_cache

CACHE_SECONDS = 300  # for which a browser does not ask for an image again
MEDIA_TYPES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"P5", "image/x-portable-anymap"),
    (b"P6", "image/x-portable-anymap"),
)
NUM_HEAD_BYTES = 32  # of a file, in which its format shows
ImageId = Annotated[str, UrlPath(description="Id of an image: the `image_id` of a hit.")]
ItemId = Annotated[str, UrlPath(description="Id of an image or a caption: the `id` of a hit.")]
SIZE = Query(ge=16, le=1_024, description="Maximum width in pixels; the height is at most 3/4 of it.")
NO_IMAGE = "The index has no image with this id, or its file cannot be read. Use the `image_id` of a hit."


def add_image_routes(app: FastAPI, backend: Backend) -> None:
    """Add `GET /api/v1/images/{id}`, `/api/v1/thumbnails/{id}` and `/api/v1/items/{id}`."""
    thumbnails = ThumbnailCache(disk=open_disk_cache())

    @app.get(
        "/api/v1/images/{image_id:path}",
        tags=["images"],
        summary="The file of an image, with ETag and Range",
        response_class=Response,
        responses={
            200: {"content": {"image/*": {"schema": p.BINARY}}},
            206: {
                "content": {"image/*": {"schema": p.BINARY}},
                "description": "The part that `Range` names.",
            },
            **p.make_error_responses(304, 404, 416),
        },
    )
    async def send_image(request: Request, image_id: ImageId, version: p.Version = "") -> Response:
        return await backend.read(version, lambda searcher: _open_image(request, searcher, image_id))

    @app.get(
        "/api/v1/thumbnails/{image_id:path}",
        tags=["images"],
        summary="A small JPEG of an image, with ETag",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {"schema": p.BINARY}}}, **p.make_error_responses(304, 404)},
    )
    async def send_thumbnail(
        request: Request, image_id: ImageId, size: Annotated[int, SIZE] = 360, version: p.Version = ""
    ) -> Response:
        def make_response(searcher: IndexSearcher) -> Response:
            path = searcher.find_image(image_id)
            thumbnail = None if path is None else thumbnails.get(path, size)
            if thumbnail is None:
                raise HTTPException(404, NO_IMAGE)
            headers = _make_cache_headers(thumbnail.etag)
            if _is_known(request, thumbnail.etag):
                return Response(status_code=304, headers=headers)
            return Response(thumbnail.content, media_type="image/jpeg", headers=headers)

        return await backend.read(version, make_response)

    @app.get(
        "/api/v1/items/{item_id:path}",
        tags=["images"],
        summary="The metadata of an image or a caption",
        responses={200: {"model": ItemBody}, **p.make_error_responses(404)},
    )
    async def show_item(item_id: ItemId, version: p.Version = "") -> ItemBody:
        return await backend.read(version, lambda searcher: _read_item(searcher, item_id))


def _open_image(request: Request, searcher: IndexSearcher, image_id: str) -> Response:
    path = searcher.find_image(image_id)
    media_type = None if path is None else _find_media_type(path)
    if path is None or media_type is None:
        raise HTTPException(404, NO_IMAGE)
    stat = stat_image(path)
    headers = _make_cache_headers(f'"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"')
    if _is_known(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if find_shard(path) is not None:
        return Response(read_image(path), headers=headers, media_type=media_type)
    return FileResponse(path, headers=headers, media_type=media_type, stat_result=stat)


def _find_media_type(path: Path) -> str | None:
    """Find the media type of a file in its bytes; None if it is not a readable image.

    The name says nothing: a file that is no image is never sent, whatever the metadata of an index name.
    """
    try:
        if find_image_container(path) is None:  # a pipe would block
            return None
        head = read_image_head(path, NUM_HEAD_BYTES)
    except (OSError, ValueError):
        return None
    for start, media_type in MEDIA_TYPES:
        if head.startswith(start):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return "image/avif" if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1") else None


def _make_cache_headers(etag: str) -> dict[str, str]:
    return {"ETag": etag, "Cache-Control": f"private, max-age={CACHE_SECONDS}"}


def _is_known(request: Request, etag: str) -> bool:
    return etag in request.headers.get("if-none-match", "")


def _read_item(searcher: IndexSearcher, item_id: str) -> ItemBody:
    for kind in searcher.index.kinds:
        row = searcher.index.get_metadata([item_id], kind).get(item_id)
        if row is not None:
            return _make_item_body(searcher, row)
    raise HTTPException(404, "The index has no item with this id. Use the `id` of a hit.")


def _make_item_body(searcher: IndexSearcher, row: Row) -> ItemBody:
    index = searcher.index
    has_captions = row.kind == "image" and "caption" in index.kinds
    captions = index.get_image_metadata("caption", row.id) if has_captions else []
    return ItemBody(
        kind=row.kind,
        id=row.id,
        image_id=row.image_id or row.id,
        text=row.text,
        split=row.split,
        width=row.width,
        height=row.height,
        columns=parse_columns(row.columns),
        captions=[CaptionBody(id=caption.id, text=caption.text or "") for caption in captions],
        regions=_list_regions(searcher, row) if row.kind == "image" else [],
        version=index.version,
    )


def _list_regions(searcher: IndexSearcher, row: Row) -> list[StoredRegionBody]:
    """List the regions of an image; none if they are not there, or are cells of a grid, whose borders say nothing."""
    stored = {} if searcher.stored_images is None else searcher.stored_images.read_boxes([row.id])
    boxes = stored.get(row.id)
    if boxes is None or boxes.is_grid:
        return []
    pairs = zip(boxes.boxes.tolist(), boxes.labels, strict=True)
    return [StoredRegionBody(box=tuple(box), label=label) for box, label in pairs]
