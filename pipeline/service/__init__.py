"""Search service over HTTP: a plan goes in, a page and a JSON API come out. Needs the extra `serve`."""

from pipeline.service.app import create_app
from pipeline.service.server import ServiceOptions, serve

__all__ = [
    "ServiceOptions",
    "create_app",
    "serve",
]
