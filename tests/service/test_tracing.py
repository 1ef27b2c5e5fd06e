import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

from service import tracing  # noqa: E402
from service.errors import ServiceError  # noqa: E402
from service.server import background  # noqa: E402
from service.settings import Settings  # noqa: E402
from service.threads import Threads  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP, as every collector does."""

    def do_POST(self) -> None:
        request = trace_service.ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.path, request))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch) -> Iterator:
    """Traces go to it; gives a function that ends them and tells the spans by name, and the resource."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.received = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert tracing.configure()

    def read():
        tracing.close()
        assert {path for path, _ in server.received} == {"/v1/traces"}
        found = [resource for _, request in server.received for resource in request.resource_spans]
        spans = {span.name: span for one in found for scope in one.scope_spans for span in scope.spans}
        return spans, attributes(found[0].resource)

    yield read
    tracing.close()
    server.shutdown()
    server.server_close()
    thread.join()


def attributes(of) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def test_steps_of_a_request_are_children_of_its_span(collector):
    def decode() -> None:
        with tracing.span("decode", image_width=40, image_height=50, nothing=None):
            time.sleep(0.01)

    async def request() -> None:
        threads = Threads(1, "test")
        with tracing.span("request"):
            await threads.run(decode)
            end = time.perf_counter()
            tracing.record("engine", end - 2, end - 1, {"model": "tiny", "version": "1", "batch_size": 3})
        threads.close()

    before = time.time()
    asyncio.run(request())
    spans, _ = collector()
    assert set(spans) == {"request", "decode", "engine"}
    assert {spans[name].parent_span_id for name in ("decode", "engine")} == {spans["request"].span_id}
    assert attributes(spans["decode"]) == {"knet.image_width": 40, "knet.image_height": 50}
    assert attributes(spans["engine"]) == {"knet.model": "tiny", "knet.version": "1", "knet.batch_size": 3}
    assert spans["engine"].end_time_unix_nano - spans["engine"].start_time_unix_nano == pytest.approx(1e9, abs=10)
    assert before - 2.1 < spans["engine"].start_time_unix_nano / 1e9 < time.time() - 1.9
    assert spans["decode"].end_time_unix_nano - spans["decode"].start_time_unix_nano >= 1e7


def test_a_failed_step_says_so(collector):
    with pytest.raises(ValueError, match="broken"), tracing.span("decode"):
        raise ValueError("broken")
    spans, _ = collector()
    assert spans["decode"].status.code == 2
    assert attributes(spans["decode"].events[0])["exception.message"] == "broken"


def test_a_server_goes_on_with_the_trace_of_its_client(collector, repository):
    with background(Settings(repository=repository, port=0)) as url, httpx.Client(base_url=url) as client:
        known = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "abc"}
        assert client.get("/v1/models/tiny", headers=known).status_code == 200
        assert client.get("/v1/models/none", headers={"traceparent": b"00-zz\x85-1-01"}).status_code == 404
        assert client.get("/there/is/nothing").status_code == 404
        assert client.get("/healthz").status_code == 200
    spans, resource = collector()
    assert resource.items() >= {"service.name": "knet-serve", "telemetry.sdk.language": "python"}.items()
    assert set(spans) == {"GET /v1/models/{name}", "GET"}
    assert (unknown := spans["GET"]).status.code == 0
    assert attributes(unknown)["http.response.status_code"] == 404


def test_a_request_keeps_trace_and_id(collector, repository):
    with background(Settings(repository=repository, port=0)) as url:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "abc"}
        httpx.get(f"{url}/v1/models/tiny", headers=headers).raise_for_status()
    spans, _ = collector()
    span = spans["GET /v1/models/{name}"]
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.kind == 2  # server
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/v1/models/{name}",
        "knet.request_id": "abc",
        "url.path": "/v1/models/tiny",
        "url.scheme": "http",
    }


def test_names_of_the_environment_win(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:password@127.0.0.1:9")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "segment-line-3")
    assert tracing.configure()
    assert tracing._provider.resource.attributes["service.name"] == "segment-line-3"
    assert "traces go to 127.0.0.1" in caplog.text
    assert "password" not in caplog.text
    tracing.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_traced_unasked(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not tracing.configure()
    assert not tracing.is_on()
    with tracing.span("decode", image_width=1) as nothing:
        tracing.record("engine", 0, 1, {})
    assert nothing is None
    tracing.close()


def test_missing_packages_are_told(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ServiceError, match=r"is not installed: pip install '\.\[tracing\]'"):
        tracing.configure()


def test_a_protocol_that_we_do_not_speak_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ServiceError, match="'grpc' is not supported; legal: http/protobuf"):
        tracing.configure()
