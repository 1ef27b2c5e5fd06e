"""The page's files, and what the server says with them."""

import re
from pathlib import Path

import httpx
import pytest

from service.page_routes import PATHS

FOLDER = Path(__file__).resolve().parents[2] / "service" / "page"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
}


@pytest.mark.parametrize("path", sorted(PATHS))
def test_files_have_their_type_and_a_strict_policy(http, path):
    response = http.get(path)
    assert response.status_code == 200
    suffix = "html" if path in ("/", "/docs") else path.rpartition(".")[2]
    assert response.headers["content-type"] == MEDIA_TYPES[suffix]
    policy = [part.strip().partition(" ") for part in response.headers["content-security-policy"].split(";")]
    assert {name: sources for name, _, sources in policy} == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"


def test_every_file_of_the_folder_is_served_as_it_is(http):
    pages = {"index.html": "/", "docs.html": "/docs"}
    for file in FOLDER.iterdir():
        assert http.get(pages.get(file.name, f"/page/{file.name}")).content == file.read_bytes()


def test_files_that_a_client_has_are_not_sent_again(http):
    first = http.get("/page/page.js")
    again = http.get("/page/page.js", headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert http.get("/page/page.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_tells_the_same_without_content(http):
    response = http.head("/")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["etag"] == http.get("/").headers["etag"]


@pytest.mark.parametrize(
    "name", ["none.js", "index.html", "..%2froutes.py", "%2e%2e/routes.py", "../routes.py", "page.js%00", ""]
)
def test_nothing_else_is_there(server, name):
    response = httpx.get(httpx.URL(server).copy_with(raw_path=f"/page/{name}".encode()))
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_only_files_of_this_server(http, path):
    """And have neither code nor style within, which the policy forbids."""
    text = http.get(path).text
    loaded = re.findall(r'<(?:script|link|img)[^>]*?\b(?:src|href)="([^"]+)"', text)
    assert loaded
    assert {f"/{name}" for name in loaded} <= PATHS
    assert not re.search(r"<style|\bstyle=|\bon[a-z]+=|<script(?![^>]*\bsrc=)", text)


def test_scripts_put_nothing_in_as_html():
    for file in FOLDER.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", file.read_text()), file


def test_scripts_import_files_that_are_there():
    for file in FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', file.read_text()):
            assert (FOLDER / name).is_file(), name


def test_the_example_is_that_of_the_readme():
    assert (FOLDER / "example.png").read_bytes() == (FOLDER.parents[1] / "examples" / "nuclei.png").read_bytes()
