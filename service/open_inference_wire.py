"""Bodies of the Open Inference Protocol v2: JSON, and the extension for binary tensors behind it.

A tensor of bytes is a list of strings in JSON, and of elements in binary data: the length as a little-endian uint32,
then as many bytes. What a body claims of lengths and counts is compared with what it has before anything is copied.
"""

import base64
import binascii
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from service.errors import InvalidParameterError, MalformedRequestError, RequestError, UndecodableImageError
from service.json_body import load_json
from service.schemas import SegmentQuery

HEADER_LENGTH = "Inference-Header-Content-Length"
INPUT = "image"
OutputName = Literal["segments", "id_map"]


class InputParameters(BaseModel, extra="forbid"):
    """Of an input tensor."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="bytes of this tensor behind the JSON"
    )


class InputTensor(BaseModel, extra="forbid"):
    """The images."""

    name: Literal["image"]
    shape: list[int] = Field(min_length=1, max_length=1, description="[n]")
    datatype: Literal["BYTES"]
    parameters: InputParameters = InputParameters()
    data: list[str] | None = Field(default=None, description="n image files in base64; absent with binary data")


class OutputParameters(BaseModel, extra="forbid"):
    """Of an output tensor."""

    binary_data: bool | None = Field(default=None, description="behind the JSON; default: `binary_data_output`")


class RequestedOutput(BaseModel, extra="forbid"):
    """A tensor that is asked for."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferRequest(BaseModel, extra="forbid"):
    """The JSON of a request."""

    id: str | None = Field(default=None, description="given back in the answer")
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = Field(
        default=[], max_length=2, description="`segments` (default): for each image the JSON of the segment route; "
        "`id_map`: ids of the segments at each pixel, of one image whose masks cannot overlap"
    )  # fmt: skip
    parameters: dict[str, str | float | bool | list[str]] = Field(
        default={}, description="those of the segment route's query, and `binary_data_output`"
    )


class OutputTensor(BaseModel):
    """A tensor of the answer."""

    name: OutputName
    datatype: Literal["BYTES", "INT32"]
    shape: list[int]
    parameters: dict[str, int] | None = Field(default=None, description="`binary_data_size`, of binary data")
    data: list[str] | list[int] | None = Field(default=None, description="absent with binary data")


class InferAnswer(BaseModel):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A request, read: image files or the errors that stand for them, and whether each output is binary."""

    id: str | None
    images: list[bytes | RequestError]
    query: SegmentQuery
    outputs: dict[OutputName, bool]


def read_request(body: bytes, header_length: str | None, *, max_images: int) -> Inference:
    """Read a request; `header_length` is the header `Inference-Header-Content-Length`, None where there is none.

    Raises:
        MalformedRequestError: the body is not of the protocol, or lengths do not fit it.
        InvalidParameterError: a parameter is unknown or not legal, or there are too many images.
    """
    json_length = _json_length(body, header_length)
    text = body[:json_length]
    try:
        request = InferRequest.model_validate(load_json(text))
    except ValidationError as error:
        raise MalformedRequestError(_explain(error)) from error
    (tensor,) = request.inputs
    (count,) = tensor.shape
    if not 1 <= count <= max_images:
        raise InvalidParameterError(f"shape [{count}]: this server takes 1 to {max_images} images in a request")
    parameters = dict(request.parameters)
    all_binary = parameters.pop("binary_data_output", False)
    if not isinstance(all_binary, bool):
        raise InvalidParameterError(f"binary_data_output must be true or false, not {str(all_binary)[:80]!r}")
    outputs: dict[OutputName, bool] = {}
    for output in request.outputs or [RequestedOutput(name="segments")]:
        wanted = output.parameters.binary_data
        outputs[output.name] = all_binary if wanted is None else wanted
    return Inference(
        id=request.id,
        images=_read_images(tensor, count, memoryview(body)[json_length:]),
        query=_read_query(parameters),
        outputs=outputs,
    )


def write_answer(
    inference: Inference,
    *,
    model: str,
    version: str,
    segments: list[bytes],
    id_map: NDArray[np.int32] | None,
) -> tuple[bytes, int | None]:
    """Body of the answer, and the length of its JSON where binary data follow it.

    Args:
        segments: for each image the JSON of its answer.
        id_map: (H, W), where the request asks for it.
    """
    tensors, binary = [], []
    for name, is_binary in inference.outputs.items():
        if name == "segments":
            tensor: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [len(segments)]}
            data = b"".join(struct.pack("<I", len(text)) + text for text in segments) if is_binary else b""
            values: Any = None if is_binary else [text.decode() for text in segments]
        else:
            assert id_map is not None
            tensor = {"name": name, "datatype": "INT32", "shape": [1, *id_map.shape]}
            data = id_map.astype("<i4").tobytes() if is_binary else b""
            values = None if is_binary else id_map.ravel()
        tensors.append(tensor | ({"parameters": {"binary_data_size": len(data)}} if is_binary else {"data": values}))
        binary.append(data)
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if inference.id is not None:
        answer["id"] = inference.id
    text = orjson.dumps(answer | {"outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    has_binary = any(inference.outputs.values())
    return b"".join([text, *binary]), len(text) if has_binary else None


def _json_length(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16):
        raise MalformedRequestError(f"{HEADER_LENGTH} {header_length[:40]!r} is no number of bytes")
    if int(header_length) > len(body):
        raise MalformedRequestError(f"{HEADER_LENGTH} is {header_length}, but the body has {len(body)} bytes")
    return int(header_length)


def _read_images(tensor: InputTensor, count: int, binary: memoryview) -> list[bytes | RequestError]:
    """The elements of the input, from JSON or from the bytes behind it."""
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise MalformedRequestError(f"input {INPUT} needs either `data` or `binary_data_size`")
    if len(binary) != (size or 0):
        raise MalformedRequestError(f"{len(binary)} bytes follow the JSON, binary_data_size is {size or 0}")
    if tensor.data is not None:
        images: list[bytes | RequestError] = [_from_base64(text) for text in tensor.data]
        if len(images) != count:
            raise MalformedRequestError(f"the shape says {count} elements, `data` has {len(images)}")
        return images
    return list(_split(binary, count))


def _split(binary: memoryview, count: int) -> Iterable[bytes]:
    """Elements of a binary tensor of bytes."""
    position = 0
    for number in range(1, count + 1):
        if len(binary) - position < 4:
            raise MalformedRequestError(
                f"the shape says {count} elements, the binary data ends before element {number}"
            )
        (length,) = struct.unpack_from("<I", binary, position)
        position += 4
        if length > len(binary) - position:
            raise MalformedRequestError(
                f"element {number} claims {length:,} bytes, {len(binary) - position:,} are left of the binary data"
            )
        yield bytes(binary[position : position + length])
        position += length
    if position != len(binary):
        raise MalformedRequestError(f"{len(binary) - position:,} bytes follow the last of {count} elements")


def _from_base64(text: str) -> bytes | RequestError:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return UndecodableImageError("the image is not base64 text; image files as they are go as binary data")


def _read_query(parameters: dict[str, Any]) -> SegmentQuery:
    """Parameters as the segment route's query; `categories` may be one string."""
    if isinstance(parameters.get("categories"), str):
        parameters["categories"] = [parameters["categories"]]
    try:
        return SegmentQuery.model_validate(parameters)
    except ValidationError as error:
        legal = ", ".join(["binary_data_output", *SegmentQuery.model_fields])
        raise InvalidParameterError(f"{_explain(error)}; parameters taken are {legal}") from error


def _explain(error: ValidationError) -> str:
    """The first few of pydantic's errors, in short."""
    entries = error.errors(include_url=False, include_context=False, include_input=False)[:3]
    return "; ".join(
        f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}".lstrip(": ") for entry in entries
    )
