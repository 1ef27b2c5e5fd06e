"""A bound on what reading a JSON body takes.

Images in base64 are long, but few: a body of millions of small values would take many times its size as Python objects.
"""

from service.errors import MalformedRequestError

MAX_VALUES = 10_000


def check_json(text: bytes) -> None:
    """Raises MalformedRequestError for more than `MAX_VALUES` commas and opening brackets; nothing is read for it."""
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise MalformedRequestError(
            f"the JSON has more than {MAX_VALUES:,} values, more than any request of this API needs"
        )
