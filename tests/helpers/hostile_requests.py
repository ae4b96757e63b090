"""Requests that nobody should send to the search service, each with the status of its answer; for tests and bench."""

import base64
import io
import json
import zlib

from PIL import Image

SEARCH = "/api/v1/search"
PHOTO = "/api/v1/search/photo"
DOG = {"text": "a dog"}


def get(path: str, *headers: str, method: str = "GET", host: str = "localhost") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    return get(path, f"Content-Length: {len(body)}", *headers, method="POST") + body


def ask(body: object, *headers: str) -> bytes:
    """Make a JSON search of a value, or of bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return post(SEARCH, content, "Content-Type: application/json", *headers)


def parts(*values: object, **options: object) -> bytes:
    return ask({"queries": [{"parts": list(values)}], **options})


def make_png(width: int, height: int, idat: bytes) -> bytes:
    """Make a PNG with a header that need not be true."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def make_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = base64.b64encode(make_jpeg()).decode()


def list_hostile_requests() -> dict[str, tuple[bytes, int]]:
    """List the requests: what is wrong -> raw request, status."""
    bomb = make_png(50_000, 50_000, zlib.compress(bytes(10_000_000)))
    requests = {
        # paths and ids
        "path out of the images": (get("/api/v1/images/../../../../etc/passwd"), 404),
        "encoded path": (get("/api/v1/images/..%2f..%2f..%2fetc%2fpasswd"), 404),
        "absolute path": (get("/api/v1/images//etc/passwd"), 404),
        "encoded absolute path": (get("/api/v1/images/%2fetc%2fpasswd"), 404),
        "NUL in an id": (get("/api/v1/images/a%00.jpg"), 404),
        "long id": (get("/api/v1/images/" + "x" * 7_000), 404),
        "thumbnail by path": (get("/api/v1/thumbnails/..%2f..%2fetc%2fpasswd"), 404),
        "item by path": (get("/api/v1/items/..%5c..%5cwindows"), 404),
        "id that is no UTF-8": (get("/api/v1/items/%ff%fe"), 404),
        "unknown route": (get("/api/v2/search?q=a"), 404),
        "old route": (get("/search?q=a"), 404),
        "slash at the end": (get(SEARCH + "/?q=a"), 404),
        "asterisk": (get("*", method="OPTIONS"), 404),
        # methods
        "DELETE": (get("/api/v1/images/a.jpg", method="DELETE"), 405),
        "PUT": (get(SEARCH, "Content-Length: 0", method="PUT"), 405),
        "TRACE": (get("/", method="TRACE"), 405),
        "unknown method": (get("/healthz", method="BREW"), 405),
        "POST of the page": (post("/", b"q=a"), 405),
        # hosts and pages
        "foreign host": (get(SEARCH + "?q=a", host="evil.example"), 400),
        "host with a user": (get(SEARCH + "?q=a", host="localhost@evil.example"), 400),
        "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
        "two hosts": (get("/", "Host: evil.example"), 400),
        "origin of another port": (get(SEARCH + "?q=a", "Origin: http://localhost:3000"), 403),
        "foreign origin": (get(SEARCH + "?q=a", "Origin: http://evil.example"), 403),
        "null origin": (parts(DOG).replace(b"Host:", b"Origin: null\r\nHost:"), 403),
        # malformed HTTP
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        "space before a colon": (get("/", "Header : value"), 400),
        "line break in a header": (get("/", "X: a\r\n b"), 200),
        "NUL in a header": (get("/", "X: a\0b"), 400),
        "two lengths": (post(SEARCH, b"{}", "Content-Length: 3"), 400),
        "length and chunks": (post(SEARCH, b"0\r\n\r\n", "Transfer-Encoding: chunked"), 400),
        "negative length": (get(SEARCH, "Content-Length: -1", method="POST"), 400),
        "long line": (get("/?q=" + "x" * 9_000), 414),
        "many headers": (get("/", *["a: b"] * 200), 431),
        # parameters
        "unknown parameter": (get(SEARCH + "?q=a&limit=3"), 422),
        "parameter twice": (get(SEARCH + "?q=a&q=b"), 422),
        "many parameters": (get(SEARCH + "?q=a" + "&a=1" * 40), 400),
        "k of 0": (get(SEARCH + "?q=a&k=0"), 422),
        "k of 10^30": (get(SEARCH + "?q=a&k=1" + "0" * 30), 422),
        "k that is no number": (get(SEARCH + "?q=a&k=NaN"), 422),
        "offset below 0": (get(SEARCH + "?q=a&offset=-1"), 422),
        "probability of infinity": (get(SEARCH + "?q=a&min_probability=inf"), 422),
        "long text": (get(SEARCH + "?q=" + "a+" * 2_500), 422),
        "empty text": (get(SEARCH + "?q=%20"), 422),
        "line break in a version": (get(SEARCH + "?q=a&version=1%0d%0aSet-Cookie:%20a=b"), 404),
        "path as a version": (get(SEARCH + "?q=a&version=../../etc"), 404),
        "SQL in a filter": (get(SEARCH + "?q=a&where=1%3D1;%20DROP%20TABLE%20items"), 422),
        "deep filter": (get(SEARCH + "?q=a&where=" + "(" * 3_000), 422),
        "large thumbnail": (get("/api/v1/thumbnails/a.jpg?size=100000"), 422),
        # JSON bodies
        "no body": (ask(b""), 422),
        "no JSON": (ask(b"{queries: 1}"), 422),
        "deep JSON": (ask(b"[" * 200_000), 422),
        "JSON of one number": (ask(b"1" * 100_000), 422),
        "no UTF-8": (ask(b'{"queries": [{"parts": [{"text": "\xff\xfe"}]}]}'), 422),
        "NaN": (ask(b'{"queries": [{"parts": [{"text": "a", "weight": NaN}]}]}'), 422),
        "infinite vector": (ask(b'{"queries": [{"parts": [{"vector": [1e999, 1]}]}]}'), 422),
        "65 queries": (ask({"queries": [{"parts": [DOG]}] * 65}), 422),
        "17 parts": (parts(*[DOG] * 17), 422),
        "9 photos": (parts(*[{"photo": "/9j/"}] * 9), 422),
        "no parts": (parts(), 422),
        "part of two kinds": (parts({"text": "a", "image_id": "b"}), 422),
        "wrong types": (parts({"text": ["a"]}, k="3"), 422),
        "vector of another size": (parts({"vector": [0.5] * 7}), 422),
        "vector of a million numbers": (parts({"vector": [0] * 1_000_000}), 422),
        "100,000 wrong numbers": (parts(*[{"vector": ["a"] * 8_000}] * 12), 422),
        "50,000 unknown fields": (parts(DOG, **{str(number): 0 for number in range(50_000)}), 422),
        "9 boxes of images": (parts(*[{"image_id": "a", "box": [0, 0, 9, 9]}] * 9), 422),
        "parts that cancel out": (parts(DOG, {**DOG, "weight": -1}), 422),
        "more hits than allowed": (ask({"queries": [{"parts": [DOG]}] * 64, "k": 100}), 422),
        "unknown image": (parts({"image_id": "../../etc/passwd"}), 422),
        "photo that is no base64": (parts({"photo": "!!"}), 422),
        "unknown field": (parts(DOG, path="/etc/passwd"), 422),
        "form in place of JSON": (post(SEARCH, b"a=b", "Content-Type: application/x-www-form-urlencoded"), 415),
        "compressed JSON": (ask(zlib.compress(b"{}"), "Content-Encoding: deflate"), 415),
        "large JSON": (ask(b" " * (9 << 20)), 413),
        # photos
        "no photo": (post(PHOTO, b""), 422),
        "page as a photo": (post(PHOTO, b"<svg onload=alert(1)>"), 422),
        "form of a photo": (post(PHOTO, b"--x", "Content-Type: multipart/form-data; boundary=x"), 415),
        "declared size": (get(PHOTO, "Content-Length: 99999999999", method="POST"), 413),
        "image of 2,500 megapixels": (post(PHOTO, bomb), 422),
        "image of 2,500 megapixels in JSON": (parts({"photo": base64.b64encode(bomb).decode()}), 422),
        "broken photo": (post(PHOTO, make_jpeg()[:200]), 422),
        "box outside of the photo": (
            parts({"photo": base64.b64encode(make_jpeg()).decode(), "box": [9, 9, 1e9, 1]}),
            422,
        ),
        # ranges
        "range beyond the file": (get("/api/v1/images/scene-00000.jpg", "Range: bytes=999999999-"), 416),
        "many ranges": (get("/api/v1/images/scene-00000.jpg", "Range: bytes=" + ",".join(["0-1"] * 3_000)), 200),
        "range of letters": (get("/api/v1/images/scene-00000.jpg", "Range: bytes=a-b"), 400),
    }
    assert len(requests) >= 60
    return requests
