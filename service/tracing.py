"""OpenTelemetry traces, where the standard variables ask for them: OTEL_EXPORTER_OTLP_ENDPOINT turns them on.

A request's span has one child for each step: decode, queue, engine, encode. Off, no package of OpenTelemetry is
imported, and a step costs one comparison.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import ServiceError
from service.version import own_version

Attribute = str | int | float | bool | None

logger = logging.getLogger("knet.tracing")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"})
_NOT_TRACED = frozenset({"/healthz", "/readyz", "/metrics"})  # asked for every few seconds
_CLOSE_S = 3.0
_NOTHING = contextlib.nullcontext()

_provider: Any = None
_tracer: Any = None


def configure() -> bool:
    """Send traces from now on if the environment asks for it; whether it does. Call `close` at the end.

    Raises:
        ServiceError: the packages are missing, or a protocol other than http/protobuf is asked for.
    """
    global _provider, _tracer
    endpoint = _first(_ENDPOINTS)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or disabled or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    protocol = _first(_PROTOCOLS) or "http/protobuf"
    if protocol != "http/protobuf":
        raise ServiceError(f"OTEL_EXPORTER_OTLP_PROTOCOL {protocol!r} is not supported; legal: http/protobuf")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but {error.name} is not installed: "
            "pip install '.[tracing]', or unset the variable"
        ) from error
    own = Resource({"service.name": "knet-serve", "service.version": own_version()})
    resource = Resource.create(own.merge(OTELResourceDetector().detect()).attributes)  # the environment's words win
    # Not left to the end of the interpreter, where one more wait for a collector that is gone would follow.
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("knet")
    logger.info("traces go to %s", urlsplit(endpoint).hostname)  # the rest may hold a password
    return True


def is_on() -> bool:
    """Whether traces are sent."""
    return _tracer is not None


def close() -> None:
    """Send what is left, and stop; what a slow collector has not taken after some seconds is lost."""
    global _provider, _tracer
    if _provider is not None:
        last = threading.Thread(target=_provider.shutdown, name="last traces", daemon=True)
        last.start()
        last.join(_CLOSE_S)
    _provider = _tracer = None


def span(name: str, **attributes: Attribute) -> contextlib.AbstractContextManager[Any]:
    """A step of the request that this task or thread works for, as a context manager; an exception marks it failed."""
    if _tracer is None:
        return _NOTHING
    step: contextlib.AbstractContextManager[Any] = _tracer.start_as_current_span(name, attributes=_named(attributes))
    return step


def record(name: str, start: float, end: float, attributes: Mapping[str, Attribute]) -> None:
    """A step that is over already; `start` and `end` in seconds of `time.perf_counter`, which all processes share."""
    if _tracer is None:
        return
    epoch = time.time_ns() - time.perf_counter_ns()
    step = _tracer.start_span(name, start_time=epoch + round(1e9 * start), attributes=_named(attributes))
    step.end(epoch + round(1e9 * end))


class TraceRequests:
    """Gives each request a span, which goes on a trace that its `traceparent` header names. The outermost layer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if _tracer is None or scope["type"] != "http" or scope["path"] in _NOT_TRACED:
            return await self.app(scope, receive, send)
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Of a header sent twice the last counts; what is no trace context is left out of account.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parent = TraceContextTextMapPropagator().extract(headers)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
        }
        with _tracer.start_as_current_span(
            method if method != "_OTHER" else "HTTP", parent, SpanKind.SERVER, attributes
        ) as current:
            logs.trace_id.set(f"{current.get_span_context().trace_id:032x}")

            async def send_observed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    current.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        current.set_status(StatusCode.ERROR)
                await send(message)

            await self.app(scope, receive, send_observed)
            if route := getattr(scope.get("route"), "path", ""):
                current.update_name(f"{method} {route}")
                current.set_attribute("http.route", route)
            current.set_attribute("knet.request_id", scope.get("state", {}).get("request_id", ""))
        return None


def _named(attributes: Mapping[str, Attribute]) -> dict[str, str | int | float | bool]:
    """Attributes under our prefix, without those that are None."""
    return {f"knet.{name}": value for name, value in attributes.items() if value is not None}


def _first(variables: tuple[str, ...]) -> str:
    return next((value for name in variables if (value := os.environ.get(name, "").strip())), "")
