"""Versions of the index, health and metrics over HTTP. Health waits for no thread, so it answers under load."""

from fastapi import FastAPI, HTTPException, Response

from index.versions import list_tags, list_versions, read_version_manifest
from pipeline.service.api import parameters as p
from pipeline.service.api.answer_body import StatusBody, VersionBody, VersionsBody
from pipeline.service.api.backend import Backend


def add_status_routes(app: FastAPI, backend: Backend) -> None:
    """Add `GET /api/v1/versions`, `/healthz`, `/readyz` and `/metrics`."""

    @app.get(
        "/api/v1/versions",
        tags=["versions"],
        summary="The versions of the index",
        responses={200: {"model": VersionsBody}, **p.make_error_responses()},
    )
    async def show_versions() -> VersionsBody:
        return await backend.files.run(lambda: _read_versions(backend))

    @app.get(
        "/healthz",
        tags=["health"],
        summary="Whether the process answers",
        responses={200: {"model": StatusBody}, **p.make_error_responses()},
    )
    async def show_health() -> StatusBody:
        return StatusBody(status="alive", version=backend.reloader.served.index.version)

    @app.get(
        "/readyz",
        tags=["health"],
        summary="Whether searches are answered: the models are loaded, and one query was answered",
        responses={200: {"model": StatusBody}, **p.make_error_responses()},
    )
    async def show_readiness() -> StatusBody:
        if not backend.is_warm:
            raise HTTPException(503, "The models are being loaded. Try again in a few seconds.")
        is_current = backend.reloader.last_error is None
        status = "ready" if is_current else "the newest version cannot be opened; see the log"
        return StatusBody(status=status, version=backend.reloader.served.index.version)

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Metrics in the text format of Prometheus",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **p.make_error_responses(),
        },
    )
    async def show_metrics() -> Response:
        backend.update_metrics()
        content, media_type = await backend.files.run(backend.metrics.render)
        return Response(content, media_type=media_type)


def _read_versions(backend: Backend) -> VersionsBody:
    root, served = backend.reloader.root, backend.reloader.served.index.version
    tags = list_tags(root)
    versions = []
    for number in list_versions(root):
        try:
            manifest = read_version_manifest(root, number)
        except FileNotFoundError:  # collected meanwhile
            continue
        versions.append(
            VersionBody(
                version=number,
                tags=[tag for tag, version in tags.items() if version == number],
                counts={kind: collection.counts.live for kind, collection in manifest.collections.items()},
                is_served=number == served,
                is_rejected=manifest.is_rejected,
            )
        )
    return VersionsBody(served=served, versions=versions)
