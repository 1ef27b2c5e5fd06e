import socket
import struct
import urllib.error
import urllib.request
import zlib

import httpx
import numpy as np
import pytest

from service.server import background
from service.settings import Settings

ROUTE = "/v1/models/tiny/segment"


@pytest.fixture
def posted(scene, png) -> bytes:
    return png(scene)


def check_problem(response: httpx.Response, status: int, type_: str, words: str) -> None:
    """Every error has the same form, and its words help."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:knet:problem:{type_}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["x-request-id"]
    assert words in problem["detail"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"task": "depth"}, "'panoptic', 'instance' or 'semantic'"),
        ({"format": "gif"}, "'rle', 'polygon', 'png', 'overlay' or 'huggingface'"),
        ({"score_threshold": "1.5"}, "score_threshold"),
        ({"score_threshold": "-0.1"}, "score_threshold"),
        ({"score_threshold": "nan"}, "score_threshold"),
        ({"overlap_threshold": "inf"}, "overlap_threshold"),
        ({"overlap_threshold": "much"}, "overlap_threshold"),
        ({"views": "4"}, "views is 4; legal for tiny, of kind panoptic: 1 to 3"),
        ({"views": "0"}, "views"),
        ({"categories": "nucleus,car"}, "unknown categories car; this model has 7 (cell), 3 (nucleus), 9"),
        (
            {"treshold": "0.5"},
            "known are task, format, score_threshold, overlap_threshold, views, timeout_ms, categories",
        ),
    ],
)
def test_bad_parameters_are_told_with_the_legal_ones(http, posted, params, words):
    check_problem(http.post(ROUTE, params=params, content=posted), 422, "invalid-parameter", words)


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ("/v1/models/other/segment", "there is tiny"),
        ("/v1/models/tiny/versions/3/segment", "it has 2, 10"),
        ("/v1/models/other/versions/2/segment", "there is tiny"),
        ("/v1/nothing", "/docs"),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(http, posted, route, words):
    check_problem(http.post(route, content=posted), 404, "not-found", words)


def test_unknown_model_has_no_detail(http):
    check_problem(http.get("/v1/models/other"), 404, "not-found", "there is tiny")


@pytest.mark.parametrize("route", ["/v1/models/..%2f..%2fetc/segment", "/v1/models/tiny/versions/..%2f2/segment"])
def test_names_are_no_paths(http, posted, route):
    assert http.post(route, content=posted).status_code == 404


def test_wrong_method_is_told_with_the_right_one(http):
    response = http.get(ROUTE)
    check_problem(response, 405, "method-not-allowed", "does not take GET")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("data", [b"this is no image", b"GIF89a" + bytes(200), b"%PDF-1.4"])
def test_what_is_no_image_is_unsupported(http, data):
    check_problem(http.post(ROUTE, content=data), 415, "unsupported-image", "JPEG, PNG, WEBP, TIFF, BMP")


def test_truncated_image_is_undecodable(http, posted):
    check_problem(http.post(ROUTE, content=posted[: len(posted) // 2]), 422, "undecodable-image", "truncated")


@pytest.mark.parametrize("request_", [{}, {"files": {"image": b""}}, {"json": {"image": ""}}])
def test_zero_bytes_are_undecodable(http, request_):
    check_problem(http.post(ROUTE, **request_), 422, "undecodable-image", "no bytes")


def test_decompression_bomb_is_refused_by_its_header(http):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20000, 15000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000)))
    check_problem(http.post(ROUTE, content=bomb), 413, "image-too-large", "20000 x 15000")


@pytest.mark.parametrize("size", [4_000_001, 30_000_000])
def test_body_over_the_limit_is_refused(http, size):
    check_problem(http.post(ROUTE, content=bytes(size)), 413, "body-too-large", "4,000,000 bytes")


def test_body_over_the_limit_without_content_length_is_refused(http):
    pieces = (bytes(100_000) for _ in range(60))
    check_problem(http.post(ROUTE, content=pieces), 413, "body-too-large", "4,000,000 bytes")


def test_multipart_over_the_limit_is_refused(http):
    check_problem(http.post(ROUTE, files={"image": bytes(5_000_000)}), 413, "body-too-large", "4,000,000 bytes")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not JSON"),
        (b"[]", '{"image": BASE64}'),
        (b"{}", '{"image": BASE64}'),
        (b'{"image": 5}', '{"image": BASE64}'),
        (b'{"images": []}', '{"image": BASE64}'),
        (b'{"images": "abc"}', '{"image": BASE64}'),
        (b'{"image": "abc", "images": ["abc"]}', '{"image": BASE64}'),
        (b'{"image": "abc", "task": "instance"}', '{"image": BASE64}'),
        (b"[" * 5000, "not JSON"),
    ],
)
def test_json_of_another_form_is_malformed(http, content, words):
    response = http.post(ROUTE, content=content, headers={"Content-Type": "application/json"})
    check_problem(response, 400, "malformed-request", words)


def test_text_that_is_no_base64_is_undecodable(http):
    check_problem(http.post(ROUTE, json={"image": "%%%"}), 422, "undecodable-image", "base64")


def test_multipart_with_other_parts_is_malformed(http, posted):
    check_problem(http.post(ROUTE, files={"file": posted}), 400, "malformed-request", "part `file`")
    check_problem(http.post(ROUTE, files={"image": (None, "text")}), 400, "malformed-request", "part `image`")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    check_problem(http.post(ROUTE, content=b"--x--\r\n", headers=broken), 400, "malformed-request", "no part")
    check_problem(http.post(ROUTE, content=posted, headers=broken), 400, "malformed-request", "")
    no_boundary = {"Content-Type": "multipart/form-data"}
    check_problem(http.post(ROUTE, content=posted, headers=no_boundary), 400, "malformed-request", "boundary")
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\na\r\n--x--\r\n'
    no_charset = {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"}
    check_problem(http.post(ROUTE, content=part, headers=no_charset), 400, "malformed-request", "charset")


def test_too_many_images_are_refused(http, posted):
    assert http.post(ROUTE, files=[("image", posted)] * 17).status_code == 400
    check_problem(http.post(ROUTE, json={"images": ["aaaa"] * 17}), 422, "invalid-parameter", "17 images")


def test_other_content_types_are_unsupported(http):
    response = http.post(ROUTE, content=b"hello", headers={"Content-Type": "text/plain"})
    check_problem(response, 415, "unsupported-body", "multipart/form-data")


def test_several_images_have_no_png_of_their_own(http, posted):
    response = http.post(ROUTE, files=[("image", posted)] * 2, headers={"Accept": "image/png"})
    check_problem(response, 422, "invalid-parameter", "one image")


def test_failing_model_gives_a_500_that_keeps_its_inside_to_itself(http, tiny, png):
    image = np.full((20, 20, 3), tiny.FAILING_RED, np.uint8)
    response = http.post(ROUTE, content=png(image))
    check_problem(response, 500, "internal-error", "request id")
    assert "Gather" not in response.text


@pytest.fixture(scope="module")
def locked_server(repository):
    keys = ("first key, long enough", "second key, long enough")
    with background(Settings(repository=repository, port=0, api_keys=keys)) as url:
        yield url


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer wrong", "Basic first key, long enough", "first key, long enough"]
)
def test_requests_without_a_known_key_are_refused(locked_server, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    for route in ("/v1/models", "/v1/nothing"):
        response = httpx.get(locked_server + route, headers=headers)
        check_problem(response, 401, "unauthorized", "Authorization: Bearer KEY")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["first key, long enough", "second key, long enough"])
def test_requests_with_a_known_key_pass(locked_server, key):
    response = httpx.get(f"{locked_server}/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 200


def test_health_and_documentation_need_no_key(locked_server):
    for route in ("/healthz", "/", "/docs", "/openapi.json"):
        assert httpx.get(locked_server + route).status_code == 200
    assert httpx.get(f"{locked_server}/readyz").status_code in (200, 503)


def test_clients_that_send_everything_first_still_read_the_refusal(server):
    request = urllib.request.Request(server + ROUTE, data=bytes(5_000_000))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as response:
        assert response.code == 413


def test_a_client_that_leaves_within_its_body_harms_nobody(server, http, posted):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".encode())
    assert http.post(ROUTE, content=posted).status_code == 200


def test_headers_without_end_are_refused(server):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + bytes(100_000).replace(b"\0", b"a"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 431")
