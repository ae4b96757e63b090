"""Bearer tokens: which files and headers are accepted, and when the service starts without any."""

import base64

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import build_app
from pipeline.service.access.bearer_tokens import BearerTokens, check_exposure, is_loopback, read_tokens

FIRST, SECOND = "a-token-of-24-characters", "another-long-token-7f3a"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (f"Bearer {FIRST}", True),
        (f"bearer {SECOND}", True),
        (f"  Bearer   {FIRST}  ", True),
        (basic("anybody", FIRST), True),
        (basic("", SECOND), True),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        (FIRST, False),
        (f"Token {FIRST}", False),
        (f"Bearer {FIRST[:-1]}", False),
        (f"Bearer {FIRST}x", False),
        (f"Bearer {FIRST} {SECOND}", False),
        (f"Bearer {FIRST.upper()}", False),
        (f"Bearer {FIRST},{SECOND}", False),
        (basic(FIRST, ""), False),
        (basic("anybody", FIRST + ":"), False),
        ("Basic " + FIRST, False),
        ("Basic ////", False),
        ("Bearer \xff\x00", False),
    ],
)
def test_header_is_accepted_only_with_a_whole_token(header, accepted):
    assert BearerTokens([FIRST, SECOND]).accept(header) == accepted


def test_tokens_come_from_a_file_and_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("TERN_TOKENS", raising=False)
    assert read_tokens(None) is None
    path = tmp_path / "tokens"
    path.write_text(f"# for the web site\n\n  {FIRST}  \n")
    tokens = read_tokens(path)
    assert (tokens.accept(f"Bearer {FIRST}"), tokens.accept(f"Bearer {SECOND}")) == (True, False)
    assert not tokens.accept("Bearer # for the web site")
    monkeypatch.setenv("TERN_TOKENS", f"{SECOND} {SECOND}2")
    tokens = read_tokens(path)
    assert all(tokens.accept(f"Bearer {token}") for token in (FIRST, SECOND, SECOND + "2"))
    assert FIRST not in repr(vars(tokens)), "only hashes are kept"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no token"),
        (b"# nothing\n\n", "has no token"),
        (f"{FIRST}\nshort\n".encode(), "5 characters; it must have 16 or more, in .*tokens, line 2"),
        (b"a token of several words\n", "has a space or a character outside of ASCII, in .*tokens, line 1"),
        ("schl\u00fcssel-mit-umlaut\n".encode(), "outside of ASCII"),
        (b"\xff\xfe" * 20, "not a text file"),
        (b"x" * ((1 << 20) + 1), "larger than"),
    ],
)
def test_unusable_file_of_tokens_is_refused_without_showing_it(tmp_path, monkeypatch, content, message):
    monkeypatch.delenv("TERN_TOKENS", raising=False)
    (tmp_path / "tokens").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tokens(tmp_path / "tokens")
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("", False),
        ("photos.example", False),
        ("localhost.evil.example", False),
    ],
)
def test_service_that_others_reach_needs_tokens_or_consent(host, loopback):
    assert is_loopback(host) == loopback
    check_exposure(host, BearerTokens([FIRST]), False)
    check_exposure(host, None, True)
    if loopback:
        check_exposure(host, None, False)
    else:
        with pytest.raises(ValueError, match=r"--tokens FILE .* TERN_TOKENS, or pass --allow-anonymous"):
            check_exposure(host, None, False)


def test_command_refuses_to_serve_others_without_tokens(monkeypatch, tmp_path):
    monkeypatch.delenv("TERN_TOKENS", raising=False)
    result = CliRunner().invoke(build_app(), ["serve", "--host", "0.0.0.0", "--set", f"workspace={tmp_path}"])
    assert "The service would answer anybody who reaches 0.0.0.0" in str(result.exception)
    result = CliRunner().invoke(build_app(), ["serve", "--tokens", str(tmp_path / "no")])
    assert isinstance(result.exception, FileNotFoundError)
