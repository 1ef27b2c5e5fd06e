"""JSON of a request, with a bound on what parsing it can cost."""

from typing import Any

import orjson

from service.errors import MalformedRequestError

# `[[],[],...]` takes thirty times its own bytes once parsed. Bodies with images hold few values, however large.
MAX_VALUES = 10_000


def load_json(content: bytes, *, max_values: int = MAX_VALUES) -> Any:
    """Parse a body; raises MalformedRequestError when it is no JSON or may hold more values than `max_values`."""
    # Counted without parsing, those within strings as well: base64 and URLs have hardly any.
    if content.count(b",") + content.count(b"[") + content.count(b"{") > max_values:
        raise MalformedRequestError(f"the JSON body has more than {max_values:,} values")
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise MalformedRequestError(f"the body is not JSON: {error}") from error
