"""Searches over HTTP: one text by GET, queries of any kind as JSON, and a photo as the body."""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response

from index.metadata import FilterTimeoutError
from pipeline.search.hits import Answer, Hit
from pipeline.search.index_searcher import IndexSearcher
from pipeline.search.query import SearchRequest, make_photo_query, make_text_query
from pipeline.service.api import parameters as p
from pipeline.service.api.answer_body import (
    AnswerBody,
    AnswersBody,
    HitBody,
    InvalidValue,
    RegionBody,
    SingleAnswerBody,
    WordBody,
)
from pipeline.service.api.backend import Backend
from pipeline.service.api.dispatcher import Results
from pipeline.service.api.query_body import TARGETS, SearchBody, make_queries, parse_search_body
from pipeline.service.limits import FILTER_SECONDS, MAX_UPLOAD_BYTES
from pipeline.service.problems import InvalidRequestError
from pipeline.service.uploads import JSON, PHOTO, receive_upload

JSON_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SearchBody"}}},
}
PHOTO_BODY = {
    "required": True,
    "description": f"The bytes of an image file, at most {MAX_UPLOAD_BYTES >> 20} MiB.",
    "content": {name: {"schema": p.BINARY} for name in ("image/*", "application/octet-stream")},
}


def add_search_routes(app: FastAPI, backend: Backend) -> None:
    """Add `GET /api/v1/search`, `POST /api/v1/search` and `POST /api/v1/search/photo`."""

    @app.get(
        "/api/v1/search",
        tags=["search"],
        summary="Search with a text",
        responses={200: {"model": SingleAnswerBody}, **p.make_error_responses(404)},
    )
    async def search_text(
        q: Annotated[str, Query(max_length=2_000, description="Text query.", examples=["two dogs on a beach"])],
        options: Annotated[p.SearchOptions, Depends()],
        target: p.Target = "images",
    ) -> Response:
        request = options.make_request(make_text_query(q, TARGETS[target]))
        return _make_response(await backend.queries.run(options.version, [request], _finish_single))

    @app.post(
        "/api/v1/search",
        tags=["search"],
        summary="Search with up to 64 queries of texts, images, photos and vectors",
        responses={200: {"model": AnswersBody}, **p.make_error_responses(404, *p.BODY)},
        openapi_extra={"requestBody": JSON_BODY},
    )
    async def search_queries(request: Request) -> Response:
        async with receive_upload(request, backend.uploads, JSON) as content:
            body, requests = await backend.bodies.run(lambda: _parse(content))
            if num_photos := sum(search.query.num_photos for search in requests):
                return _make_response(await backend.photos.run(body.version, requests, _finish_many, num_photos))
        return _make_response(await backend.queries.run(body.version, requests, _finish_many, len(requests)))

    @app.post(
        "/api/v1/search/photo",
        tags=["search"],
        summary="Search with a photo",
        responses={200: {"model": SingleAnswerBody}, **p.make_error_responses(404, *p.BODY)},
        openapi_extra={"requestBody": PHOTO_BODY},
    )
    async def search_photo(
        request: Request,
        options: Annotated[p.SearchOptions, Depends()],
        target: p.Target = "captions",
    ) -> Response:
        backend.photos.check_room()  # before the photo is read
        async with receive_upload(request, backend.uploads, PHOTO) as photo:
            search = options.make_request(make_photo_query(photo, TARGETS[target]))
            return _make_response(await backend.photos.run(options.version, [search], _finish_single))


def _parse(content: bytes) -> tuple[SearchBody, list[SearchRequest]]:
    body = parse_search_body(content)
    where = body.where.strip() or None
    return body, [
        SearchRequest(query, body.k, body.offset, where, body.min_probability, body.explain, body.unique)
        for query in make_queries(body)
    ]


def _finish_single(searcher: IndexSearcher, results: Results) -> str:
    """Make the JSON of the only answer; HTTP 422 if there is none."""
    result = results[0]
    if isinstance(result, ValueError):
        _check_filter_time(results)
        raise HTTPException(422, str(result)) from result
    body = _make_answer_body(result)
    return SingleAnswerBody(**dict(body), version=searcher.index.version).model_dump_json()


def _finish_many(searcher: IndexSearcher, results: Results) -> str:
    """Make the JSON of all answers; HTTP 422 with every query that has none."""
    errors = [
        InvalidValue(pointer=f"/queries/{number}", detail=str(result))
        for number, result in enumerate(results)
        if isinstance(result, ValueError)
    ]
    if errors:
        _check_filter_time(results)
        raise InvalidRequestError(errors)
    answers = [_make_answer_body(result) for result in results if isinstance(result, Answer)]
    return AnswersBody(version=searcher.index.version, answers=answers).model_dump_json()


def _make_answer_body(answer: Answer) -> AnswerBody:
    """Convert the results of a query, without paths of this machine."""
    return AnswerBody(
        hits=[_make_hit_body(hit) for hit in answer.hits],
        weak=[_make_hit_body(hit) for hit in answer.weak],
        note=answer.note,
    )


def _make_hit_body(hit: Hit) -> HitBody:
    return HitBody(
        id=hit.id,
        image_id=hit.image_id,
        score=hit.score,
        probability=hit.probability,
        captions=list(hit.captions),
        regions=[RegionBody(box=region.box, label=region.label, score=region.score) for region in hit.regions],
        words=[WordBody(**vars(word)) for word in hit.words],
        size=hit.size,
        columns=dict(hit.columns),
    )


def _check_filter_time(results: Results) -> None:
    """Raise HTTPException with status 400 if the filter of a request takes too long."""
    for result in results:
        if isinstance(result, FilterTimeoutError):
            raise HTTPException(400, f"{result} It may take {FILTER_SECONDS} seconds.") from result


def _make_response(content: str) -> Response:
    return Response(content, media_type="application/json")
