import httpx
import pytest
from pydantic import ValidationError

from service.server import background
from service.settings import Settings

ORIGIN = "https://app.example.org"


@pytest.fixture(scope="module")
def shared(repository):
    """A server for the pages of one origin, with keys."""
    settings = Settings(repository=repository, port=0, cors_origins=ORIGIN, api_keys=("a key, long enough",))
    with background(settings) as url:
        yield url


def preflight(url: str, origin: str) -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    return httpx.options(f"{url}/v1/models/tiny/segment", headers={"Origin": origin, **asked})


def test_cors_is_closed_by_default(server):
    assert preflight(server, ORIGIN).status_code == 405
    response = httpx.get(f"{server}/v1/models", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_listed_origins_may_ask(shared):
    response = preflight(shared, ORIGIN)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in response.headers
    headers = {"Origin": ORIGIN, "Authorization": "Bearer a key, long enough"}
    response = httpx.get(f"{shared}/v1/models", headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    refused = httpx.get(f"{shared}/v1/models", headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN  # so that the page can read why


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://app.example.org", ORIGIN + ".evil.example"])
def test_other_origins_may_not(shared, origin):
    response = preflight(shared, origin)
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
    response = httpx.get(f"{shared}/healthz", headers={"Origin": origin})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origin", ["app.example.org", "null", "https://app.example.org/", "https://*.example.org"])
def test_what_is_no_origin_is_refused_as_a_setting(origin):
    with pytest.raises(ValidationError, match="must have the form"):
        Settings(cors_origins=origin)


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/nothing", "/openapi.json", "/", "/docs"])
def test_every_answer_tells_browsers_to_be_careful(server, path):
    headers = httpx.get(server + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers
    assert len(headers.get_list("content-security-policy")) == 1
