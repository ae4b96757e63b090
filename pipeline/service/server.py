"""Run the search service in this process until SIGTERM or Ctrl-C, whatever its clients do."""

import logging
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from index.search import HotReloader
from pipeline.search.index_searcher import IndexSearcher
from pipeline.service.access.bearer_tokens import BearerTokens

try:
    import uvicorn
except ImportError as error:
    raise ImportError(
        "The search service needs the extra `serve`. Run `python -m pip install -c constraints.txt -e '.[serve]'`."
    ) from error

from pipeline.service.access.guard import list_allowed_hosts
from pipeline.service.app import create_app
from pipeline.service.connections import BoundedProtocol
from pipeline.service.limits import BACKLOG, EXIT_SECONDS, KEEP_ALIVE_SECONDS, SHUTDOWN_SECONDS
from pipeline.service.logs import make_log_config

log = logging.getLogger(__name__)
EXIT_STATUS = 143  # 128 + SIGTERM


@dataclass(frozen=True)
class ServiceOptions:
    """How the service is reached."""

    host: str
    """Address to listen on."""
    port: int
    """TCP port to listen on."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that requests may use for the service, besides `host` and those of the loopback interface."""
    tokens: BearerTokens | None = None
    """Tokens of which each request must have one; None needs none."""
    metrics_folder: Path | None = None
    """Folder in which the worker processes of the service keep their metrics; None: there is one process."""


def serve(searchers: HotReloader[IndexSearcher], options: ServiceOptions) -> None:
    """Run the service until SIGTERM or Ctrl-C. A version that is published meanwhile is served within a second.

    Args:
        searchers: Searchers of the index; closed at the end.
        options: How the service is reached.
    """
    hosts = list_allowed_hosts(options.host, options.allowed_hosts)
    app = create_app(searchers, hosts, options.tokens, options.metrics_folder)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=BoundedProtocol,
        ws="none",
        log_config=make_log_config(),
        access_log=False,
        backlog=BACKLOG,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after the shutdown
        _Server(config).run(
            None if options.metrics_folder is None else [open_shared_socket(options.host, options.port)]
        )


def open_shared_socket(host: str, port: int) -> socket.socket:
    """Open a socket on a port that several processes listen on; the operating system deals connections out to them."""
    shared = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    shared.bind((host, port))
    return shared


class _Server(uvicorn.Server):
    """uvicorn's server, which ends even if a thread or a client does not."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown, and end the process after `EXIT_SECONDS` if it is not complete."""
        watchdog = threading.Timer(EXIT_SECONDS, _exit_now)
        watchdog.daemon = True
        watchdog.start()
        super().handle_exit(sig, frame)


def _exit_now() -> None:
    log.warning("Requests were still running %s s after the signal; they get no answer", EXIT_SECONDS)
    os._exit(EXIT_STATUS)
