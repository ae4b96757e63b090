"""A model that is not on this machine: the hub is asked once, and the model that needs no download is named."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants
from transformers import AutoConfig, AutoModel, AutoTokenizer

from extractors.config import TextConfig
from extractors.text import TextExtractor
from extractors.text.models import is_hub_reachable, must_download

MODEL = "someone/a-model-that-does-not-exist"
requests: list[str] = []


@contextmanager
def answer(status: int) -> Iterator[str]:
    """Serve one status for each request, and list the requests; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(self.path)
            self.send_response(status)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    requests.clear()


@pytest.mark.parametrize(("status", "is_reachable"), [(200, True), (404, True), (500, False), (503, False)])
def test_hub_is_reachable_unless_its_server_fails(status, is_reachable, monkeypatch):
    with answer(status) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert is_hub_reachable() is is_reachable
        assert len(requests) == 1, "it is asked once"


def test_unreachable_hub_is_not_asked_for_files(closed_port, monkeypatch):
    def fail(*_: object, local_files_only: bool = False, **__: object) -> None:
        assert local_files_only, "a request that transformers repeats for a minute"
        raise OSError("not in the cache")

    for loader in (AutoConfig, AutoModel, AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", fail)
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    with pytest.raises(FileNotFoundError, match=rf"{MODEL}' is not on this machine, .*cannot be reached.*\"minilm\""):
        TextExtractor(TextConfig(model=MODEL))


def test_offline_mode_asks_nobody(monkeypatch):
    with answer(200) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(FileNotFoundError, match='"minilm"'):
            must_download(MODEL)
    assert requests == []


def test_model_in_the_cache_is_loaded_without_a_request(tmp_path, monkeypatch):
    monkeypatch.setattr("extractors.text.models.try_to_load_from_cache", lambda model, name: str(tmp_path / name))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: object())
    with answer(200) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert not must_download(MODEL)
    assert requests == []


def test_folder_needs_no_download(tmp_path):
    assert not must_download(str(tmp_path))
