"""Errors to problem objects (RFC 9457), in one place."""

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from service.errors import (
    InvalidParameterError,
    MalformedRequestError,
    NotFoundError,
    ServiceError,
    UnauthorizedError,
    UnavailableError,
)
from service.schemas import SegmentQuery

MEDIA_TYPE = "application/problem+json"
_MAX_ERRORS = 10  # of one request's parameters; an answer to nonsense need not be longer than the nonsense

logger = logging.getLogger("knet.http")


def problem(error: ServiceError, scope: Scope) -> dict[str, Any]:
    """The problem object; what is not the client's business stays in the log."""
    detail = error.detail
    if error.status == 500:
        logger.error("request failed: %s", detail)
        detail = "The server failed on this request; its log says more under this request id."
    return {
        "type": f"urn:knet:problem:{error.type}",
        "title": error.title,
        "status": error.status,
        "detail": detail,
        "instance": scope.get("path", ""),
        "request_id": request_id(scope),
    }


def problem_response(
    error: ServiceError, scope: Scope, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """The response to a request that ended in `error`; `members` extend the problem object.

    On the routes of the Open Inference Protocol it is the protocol's own form.
    """
    headers = dict(headers or {})
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    document = problem(error, scope) | members
    if scope.get("path", "").split("/")[1:2] == ["v2"]:
        content = orjson.dumps({"error": f"{document['title']}: {document['detail']}"})
        return Response(content, error.status, headers, "application/json")
    return Response(orjson.dumps(document), error.status, headers, MEDIA_TYPE)


def request_id(scope: Scope) -> str:
    """Id of a request, as the outermost middleware set it."""
    return str(scope.get("state", {}).get("request_id", ""))


def install(app: FastAPI) -> None:
    """Make every error of `app`, FastAPI's own included, a problem."""

    @app.exception_handler(ServiceError)
    async def _service_error(request: Request, error: ServiceError) -> Response:
        return problem_response(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def _validation_error(request: Request, error: RequestValidationError) -> Response:
        errors = [_explain(entry) for entry in error.errors()[:_MAX_ERRORS]]
        detail = "; ".join(f"`{entry['parameter']}`: {entry['message']}" for entry in errors)
        return problem_response(InvalidParameterError(detail), request.scope, errors=errors)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        method, path = request.method, request.url.path
        if error.status_code == 404:
            return problem_response(NotFoundError(f"there is nothing at {path}; see /docs"), request.scope)
        other = MalformedRequestError(str(error.detail))
        if error.status_code == 405:
            other = MalformedRequestError(f"{path} does not take {method}; see /docs")
            other.type, other.title = "method-not-allowed", "Method not allowed"
        other.status = error.status_code
        return problem_response(other, request.scope, headers=error.headers)


def _explain(entry: Mapping[str, Any]) -> dict[str, str]:
    """One of pydantic's errors in the words of the caller."""
    parameter = str(entry["loc"][-1]) if len(entry["loc"]) > 1 else "request"
    if entry["type"] == "extra_forbidden":
        legal = ", ".join(SegmentQuery.model_fields)  # the only model that forbids others
        return {"parameter": parameter, "message": f"unknown parameter; known are {legal}"}
    return {"parameter": parameter, "message": f"{entry['msg']}, not {str(entry.get('input'))[:80]!r}"}
