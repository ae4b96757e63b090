"""`SearchClient`: asks a search service what `Searcher` asks an index, with methods of the same names."""

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypedDict, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from pipeline.service.api.answer_body import (
    AnswersBody,
    Box,
    ColumnsBody,
    ItemBody,
    OverviewBody,
    SingleAnswerBody,
    StatusBody,
    VersionsBody,
)
from pipeline.service.client.connection import Connection, SearchServiceError
from pipeline.service.limits import MAX_UPLOAD_BYTES

API = "/api/v1"
DEFAULT_URL = "http://127.0.0.1:8080"
JSON, BYTES = "application/json", "application/octet-stream"
Body = TypeVar("Body", bound=BaseModel)
For = Literal["images", "captions"]


class Part(TypedDict, total=False):
    """A part of a query: exactly one of `text`, `image_id`, `photo` and `vector`, as in the JSON of the API."""

    text: str
    image_id: str
    """Image of the index, which is left out of the results."""
    photo: Path | bytes
    """An image file, or its content."""
    vector: Iterable[float]
    """An embedding (e,) of the model of the index."""
    box: Box
    """Region x1, y1, x2, y2 of the image or photo, in pixels; without it, all of the image."""
    weight: float
    """Factor of the part; 1 without it, and below 0 for what the results avoid."""


class SearchClient:
    """Asks a search service (`tern serve`). Safe to share between threads.

    Every method raises `SearchServiceError` if the service answers with an error, `ConnectionError` if nothing answers,
    and `TimeoutError` if the answer takes too long.

    Args:
        url: Address of the service.
        token: Bearer token, if the service needs one.
        version: Number or tag of the version of the index that answers; empty for the published one.
        timeout_seconds: Maximum time until the connection is open, and between two parts of an answer.
    """

    def __init__(
        self, url: str = DEFAULT_URL, token: str | None = None, version: str = "", timeout_seconds: float = 60
    ) -> None:
        self._connection = Connection(url, token, timeout_seconds)
        self.version = version

    def search(
        self,
        queries: Sequence[Sequence[Part]],
        k: int = 10,
        offset: int = 0,
        where: str | None = None,
        min_probability: float | None = None,
        target: For = "images",
        unique: bool = False,
    ) -> list[SingleAnswerBody]:
        """Search with several queries in one request.

        Args:
            queries: The parts of each query, which are added up: 1 to 64 queries of 1 to 16 parts.
            k: Maximum number of hits per query, 1 to 100.
            offset: Number of best hits to leave out, to get the next ones of an earlier search; at most 1,000.
            where: Filter over the metadata of what is searched; no filter if None.
            min_probability: Smallest probability of a hit that is not weak, 0 to 1; that of the index if None.
            target: What is searched.
            unique: Leave out images that are near copies of a better hit.

        Returns:
            One answer per query, in their order.
        """
        body = {
            "queries": [{"parts": [_encode_part(part) for part in parts], "for": target} for parts in queries],
            "k": k,
            "offset": offset,
            "where": where or "",
            "min_probability": min_probability,
            "unique": unique,
            "version": self.version,
        }
        content = self._connection.request("POST", f"{API}/search", {}, json.dumps(body).encode(), JSON)
        answers = _parse(AnswersBody, content)
        return [SingleAnswerBody(**dict(answer), version=answers.version) for answer in answers.answers]

    def search_text(self, text: str, k: int = 10, where: str | None = None) -> SingleAnswerBody:
        """Search images with a text, weak hits included."""
        return self.search([[{"text": text}]], k, where=where, min_probability=0)[0]

    def search_image(self, photo: Path | bytes, k: int = 10, where: str | None = None) -> SingleAnswerBody:
        """Search captions with a photo, weak hits included.

        Raises:
            ValueError: The photo is larger than the service accepts.
            OSError: The file of the photo cannot be read.
        """
        parameters: dict[str, str | int] = {"k": k, "where": where or "", "min_probability": 0, "version": self.version}
        path = f"{API}/search/photo"
        return _parse(SingleAnswerBody, self._connection.request("POST", path, parameters, _read_photo(photo), BYTES))

    def search_similar(self, image_id: str, k: int = 10, where: str | None = None) -> SingleAnswerBody:
        """Search images that are similar to an image of the index."""
        return self.search([[{"image_id": image_id}]], k, where=where)[0]

    def get_image(self, image_id: str) -> bytes:
        """Return the file of an image."""
        return self._get(f"{API}/images/{_quote(image_id)}")

    def get_thumbnail(self, image_id: str, size: int = 360) -> bytes:
        """Return a small JPEG of an image, at most `size` pixels wide (16 to 1,024) and 3/4 of it high."""
        return self._get(f"{API}/thumbnails/{_quote(image_id)}", size=size)

    def get_item(self, item_id: str) -> ItemBody:
        """Return the metadata of an image or a caption; of an image, its captions and regions too."""
        return _parse(ItemBody, self._get(f"{API}/items/{_quote(item_id)}"))

    def get_columns(self, target: For = "images") -> ColumnsBody:
        """Return the columns that filters may name, with their types and values."""
        return _parse(ColumnsBody, self._get(f"{API}/columns", **{"for": target}))

    def get_overview(self) -> OverviewBody:
        """Return what is indexed, what can be asked, and examples."""
        return _parse(OverviewBody, self._get(f"{API}/overview"))

    def get_versions(self) -> VersionsBody:
        """Return the versions of the index."""
        return _parse(VersionsBody, self._connection.request("GET", f"{API}/versions", {}))

    def get_status(self) -> StatusBody:
        """Return the state of the service; raises `SearchServiceError` with status 503 while it loads its models."""
        return _parse(StatusBody, self._connection.request("GET", "/readyz", {}))

    def _get(self, path: str, **parameters: str | int) -> bytes:
        return self._connection.request("GET", path, {**parameters, "version": self.version})


def _parse(model: type[Body], content: bytes) -> Body:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise SearchServiceError(
            200,
            f"The answer is not the JSON of the search service ({error.error_count()} values differ). Check the "
            "address, and that client and service have the same version.",
        ) from error


def _quote(name: str) -> str:
    return quote(name, safe="")


def _encode_part(part: Part) -> object:
    """Convert what JSON cannot hold: the bytes of a photo, and the numbers of an array."""
    encoded: dict[str, object] = {**part}
    if "photo" in part:
        encoded["photo"] = base64.b64encode(_read_photo(part["photo"])).decode()
    if "vector" in part:
        encoded["vector"] = [float(value) for value in part["vector"]]
    return encoded


def _read_photo(photo: Path | bytes) -> bytes:
    size = len(photo) if isinstance(photo, bytes) else Path(photo).stat().st_size
    if size > MAX_UPLOAD_BYTES:  # before it is read
        raise ValueError(
            f"The photo has {size:,} bytes; a service accepts {MAX_UPLOAD_BYTES:,}. Pass a smaller copy of it."
        )
    return photo if isinstance(photo, bytes) else Path(photo).read_bytes()
