"""Bearer tokens that the search service accepts, and when it needs them. Imports nothing heavy."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from pathlib import Path

from data.settings import read_settings

MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_FILE_BYTES = 1 << 20
MAKE_TOKEN = "`python -c 'import secrets; print(secrets.token_urlsafe(32))'` makes a good one"


class BearerTokens:
    """Tokens that requests may have. Only their hashes are kept.

    Args:
        tokens: The tokens.
    """

    def __init__(self, tokens: Collection[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    def accept(self, authorization: str) -> bool:
        """Return whether the header `Authorization` of a request has one of the tokens.

        The token is that of the scheme Bearer (RFC 6750), or the password of the scheme Basic (RFC 7617), which
        browsers use. The time does not depend on how much of a token is right.
        """
        scheme, _, credentials = authorization.strip().partition(" ")
        token = credentials.strip()
        if scheme.lower() == "basic":
            token = _read_password(token)
        elif scheme.lower() != "bearer":
            return False
        digest = _digest(token)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def read_tokens(file: Path | None) -> BearerTokens | None:
    """Read the tokens of a file, and those of the environment variable TERN_TOKENS.

    Args:
        file: One token per line; empty lines and lines that begin with `#` are ignored. None: no file.

    Returns:
        The tokens; None if there is neither a file nor the variable.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has no token, or a token is too short or has characters that a header cannot have.
    """
    tokens = [(token, "the environment variable TERN_TOKENS") for token in read_settings().tokens.split()]
    if file is not None:
        lines = _read_lines(file)
        stripped = ((line.strip(), f"{file}, line {number}") for number, line in enumerate(lines, 1))
        from_file = [(token, source) for token, source in stripped if token and not token.startswith("#")]
        if not from_file:
            raise ValueError(f"{file} has no token. Write one token per line; {MAKE_TOKEN}.")
        tokens += from_file
    for token, source in tokens:
        _check_token(token, source)
    return BearerTokens([token for token, _ in tokens]) if tokens else None


def check_exposure(host: str, tokens: BearerTokens | None, allow_anonymous: bool) -> None:
    """Raise ValueError if other machines could reach a service without tokens.

    Args:
        host: Address that the service listens on.
        tokens: Tokens of the service; None if it has none.
        allow_anonymous: Whether the user wants such a service.
    """
    if tokens is None and not allow_anonymous and not is_loopback(host):
        raise ValueError(
            f"The service would answer anybody who reaches {host}. Pass --tokens FILE with one token per line "
            f"({MAKE_TOKEN}), set TERN_TOKENS, or pass --allow-anonymous."
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_lines(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"The file of tokens {file} does not exist. Write one token per line; {MAKE_TOKEN}.")
    if file.stat().st_size > MAX_TOKEN_FILE_BYTES:
        raise ValueError(f"{file} is larger than {MAX_TOKEN_FILE_BYTES:,} bytes. Pass a file with one token per line.")
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file. Pass a file with one token per line.") from None


def _check_token(token: str, source: str) -> None:
    """Raise ValueError if a token is not usable; the message does not contain it."""
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(
            f"A token has {len(token)} characters; it must have {MIN_TOKEN_CHARACTERS} or more, in {source}. Replace "
            f"it; {MAKE_TOKEN}."
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(f"A token has a space or a character outside of ASCII, in {source}. Replace it; {MAKE_TOKEN}.")


def _read_password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8", "replace").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
