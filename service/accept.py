"""Content negotiation: the form of an answer, by the request's headers `Accept...` (RFC 9110, 12.5)."""

from collections.abc import Sequence

from service.errors import NotAcceptableError

JSON, PNG = "application/json", "image/png"


def choose(accept: str, offers: Sequence[str]) -> str:
    """The offer of the highest quality, the first of equals; an empty header takes all.

    Raises:
        NotAcceptableError: the header takes none of them.

    >>> choose("image/*, application/json;q=0.5", ["application/json", "image/png"])
    'image/png'
    """
    ranges = [_read(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    qualities = [_quality(offer, ranges) for offer in offers]
    best = max(qualities)
    if best <= 0:
        raise NotAcceptableError(f"Accept takes {accept[:100]!r}, this answer can be {' or '.join(offers)}")
    return offers[qualities.index(best)]


def takes(header: str, name: str) -> bool:
    """Whether a list such as `Accept-Encoding` names something with a quality above 0.

    >>> takes("br, gzip;q=0.5", "gzip"), takes("gzip;q=0", "gzip")
    (True, False)
    """
    return any(quality > 0 for given, quality in map(_read, header.split(",")) if given == name)


def _read(part: str) -> tuple[str, float]:
    """Media range, or other name, and quality of one part of a header; a quality that is no number is 0."""
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """Of one offer: that of the most specific range that holds it."""
    for pattern in (offer, offer.partition("/")[0] + "/*", "*/*"):
        if found := [quality for media_range, quality in ranges if media_range == pattern]:
            return max(found)
    return 0.0
