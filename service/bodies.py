"""The images of a request, from each of the three forms of body."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.requests import Request

from service.errors import (
    InvalidParameterError,
    MalformedRequestError,
    RequestError,
    UndecodableImageError,
    UnsupportedBodyError,
)
from service.json_guard import check_json
from service.threads import Threads

_FORMS = "raw bytes (image/*, application/octet-stream), multipart/form-data, application/json"


@dataclass(frozen=True)
class Body:
    """Image files in their order, or the error that stands for one; `is_list`: answer with a list, even for one."""

    images: list[bytes | RequestError]
    is_list: bool


async def read_body(request: Request, *, max_images: int, threads: Threads) -> Body:
    """Read the images of a request; raises RequestError when the body as a whole makes no sense."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        body = await _read_multipart(request, max_images)
    elif content_type == "application/json":
        body = await threads.run(_read_json, await request.body())
    # `curl --data-binary @file` calls everything a form, unless told otherwise.
    elif content_type.startswith("image/") or content_type in (
        "",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ):
        body = Body([await request.body()], is_list=False)
    else:
        raise UnsupportedBodyError(f"{content_type} is no body that holds images; send {_FORMS}")
    if len(body.images) > max_images:
        raise InvalidParameterError(f"{len(body.images)} images in one request; this server takes {max_images}")
    return body


async def _read_multipart(request: Request, max_images: int) -> Body:
    images: list[bytes | RequestError] = []
    async with request.form(max_files=max_images, max_fields=1) as form:
        for name, part in form.multi_items():
            if name != "image" or not isinstance(part, UploadFile):
                raise MalformedRequestError(f"part `{name}` is not taken; send files, each in a part `image`")
            images.append(await part.read())
    if not images:
        raise MalformedRequestError("the form has no part `image`")
    return Body(images, is_list=len(images) > 1)


def _read_json(content: bytes) -> Body:
    check_json(content)
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise MalformedRequestError(f"the body is not JSON: {error}") from error
    match document:
        case {"image": str(image)} if len(document) == 1:
            return Body([_from_base64(image)], is_list=False)
        case {"images": [_, *_] as images} if len(document) == 1:
            return Body([_from_base64(image) for image in images], is_list=True)
    raise MalformedRequestError('the body must be {"image": BASE64} or {"images": [BASE64, ...]}')


def _from_base64(text: Any) -> bytes | RequestError:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return UndecodableImageError("the image is not base64 text")
