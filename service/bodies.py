"""The images of a request, from each of the three forms of body."""

import base64
import binascii
import sys
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import (
    InvalidParameterError,
    MalformedRequestError,
    RequestError,
    UndecodableImageError,
    UnsupportedBodyError,
)
from service.fetch import Fetcher
from service.json_body import load_json
from service.threads import Threads

_FORMS = "raw bytes (image/*, application/octet-stream), multipart/form-data, application/json"
_JSON_FORMS = '{"image": BASE64}, {"images": [BASE64, ...]}, {"url": URL} or {"urls": [URL, ...]}'


@dataclass(frozen=True)
class Body:
    """Image files in their order, or the error that stands for one; `is_list`: answer with a list, even for one."""

    images: list[bytes | RequestError]
    is_list: bool


async def read_body(request: Request, *, max_images: int, threads: Threads, fetcher: Fetcher) -> Body:
    """Read the images of a request; raises RequestError when the body as a whole makes no sense."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        body = await _read_multipart(request, max_images)
    elif content_type == "application/json":
        body = await _read_json(await request.body(), request, max_images, threads, fetcher)
    # `curl --data-binary @file` calls everything a form, unless told otherwise.
    elif content_type.startswith("image/") or content_type in (
        "",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ):
        body = Body([await request.body()], is_list=False)
    else:
        raise UnsupportedBodyError(f"{content_type} is no body that holds images; send {_FORMS}")
    return body


def _check_count(count: int, max_images: int) -> None:
    if count > max_images:
        raise InvalidParameterError(f"{count} images in one request; this server takes {max_images}")


class _InMemoryParser(MultiPartParser):
    """Nothing goes to the disk: the body's limit bounds all parts together, and python-multipart their headers."""

    spool_max_size = sys.maxsize


async def _read_multipart(request: Request, max_images: int) -> Body:
    images: list[bytes | RequestError] = []
    async with aclosing(request.stream()) as stream:
        parser = _InMemoryParser(request.headers, stream, max_files=max_images, max_fields=1, max_part_size=1024)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise MalformedRequestError(error.message) from error
        except UnicodeError as error:
            raise MalformedRequestError("the form's charset is not one of text") from error
    for name, part in form.multi_items():
        if name != "image" or not isinstance(part, UploadFile):
            raise MalformedRequestError(f"part `{name}` is not taken; send files, each in a part `image`")
        images.append(await part.read())
    if not images:
        raise MalformedRequestError("the form has no part `image`")
    return Body(images, is_list=len(images) > 1)


async def _read_json(content: bytes, request: Request, max_images: int, threads: Threads, fetcher: Fetcher) -> Body:
    document = await threads.run(load_json, content)
    del content
    match document:
        case {"image": str(image)} if len(document) == 1:
            return Body([await threads.run(_from_base64, image)], is_list=False)
        case {"images": [_, *_] as images} if len(document) == 1 and all(isinstance(image, str) for image in images):
            _check_count(len(images), max_images)
            return Body([await threads.run(_from_base64, image) for image in images], is_list=True)
        case {"url": str(url)} if len(document) == 1:
            return Body(await fetcher.fetch_all([url], request.state.held), is_list=False)
        case {"urls": [_, *_] as urls} if len(document) == 1 and all(isinstance(url, str) for url in urls):
            _check_count(len(urls), max_images)
            return Body(await fetcher.fetch_all(urls, request.state.held), is_list=True)
    raise MalformedRequestError(f"the body must be one of {_JSON_FORMS}")


def _from_base64(text: Any) -> bytes | RequestError:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return UndecodableImageError("the image is not base64 text")
