import pytest

from service.accept import choose
from service.errors import NotAcceptableError

JSON, PNG = "application/json", "image/png"
ROUTE = "/v1/models/tiny/segment"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("image/png", PNG),
        ("IMAGE/PNG", PNG),
        ("image/*", PNG),
        ("application/*", JSON),
        ("image/png, application/json", JSON),  # of equals the first offer
        ("image/png, application/json;q=0.9", PNG),
        ("application/json ; charset=utf-8 ; q=0.2 , */*;q=0.1", JSON),
        ("application/json;q=0, */*", PNG),  # the specific range counts
        ("image/*;q=0.1, image/png;q=0.8, */*;q=0.5", PNG),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8", JSON),  # a browser
        ("image/png;q=7", PNG),
        (",,", JSON),
    ],
)
def test_the_best_offer_is_chosen(accept, chosen):
    assert choose(accept, [JSON, PNG]) == chosen


@pytest.mark.parametrize("accept", ["text/csv", "application/json;q=0, image/*;q=0", "image/png;q=x", "json", ";", "*"])
def test_what_cannot_be_given_is_refused(accept):
    with pytest.raises(NotAcceptableError, match="application/json or image/png"):
        choose(accept, [JSON, PNG])


def test_refusals_are_problems_whatever_is_accepted(http, scene, png):
    response = http.post(ROUTE, content=png(scene), headers={"Accept": "text/csv"})
    assert response.status_code == 406
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:knet:problem:not-acceptable"
    assert "application/json or image/png" in problem["detail"]


@pytest.mark.parametrize("form", ["rle", "polygon", "huggingface"])
def test_a_format_without_a_picture_is_json_alone(http, scene, png, form):
    response = http.post(ROUTE, content=png(scene), params={"format": form}, headers={"Accept": "image/png"})
    assert response.status_code == 406
    assert "application/json" in response.json()["detail"]
    response = http.post(ROUTE, content=png(scene), params={"format": form}, headers={"Accept": "image/png, */*;q=0.1"})
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("form", ["png", "overlay"])
def test_a_picture_is_alone_where_it_is_preferred(http, scene, png, form):
    def media_type(accept: str) -> str:
        response = http.post(ROUTE, content=png(scene), params={"format": form}, headers={"Accept": accept})
        return response.headers["content-type"]

    assert media_type("application/json;q=0.5, image/png") == PNG
    assert media_type("application/json, image/png") == JSON
    assert media_type("*/*") == JSON
