import concurrent.futures
import re

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service import gpu
from service.metrics import Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def metrics() -> Metrics:
    """One of each."""
    metrics = Metrics()
    metrics.loaded(lambda: [("tiny", "1", "onnxruntime-fp32"), ("tiny", "2", "openvino-bf16")])
    metrics.watch("queued", lambda: {"tiny": 3})
    metrics.answered(model="tiny", task="panoptic", outcome="ok", seconds=0.12)
    metrics.answered(model="tiny", task="panoptic", outcome="undecodable-image", seconds=0.01)
    metrics.stage(model="tiny", stage="decode", seconds=0.003)
    metrics.batch(model="tiny", size=3, seconds=0.25)
    metrics.batch(model="tiny", size=8, seconds=0.5)
    metrics.refused(cause="queue-full")
    metrics.restarted(model="tiny")
    return metrics


def samples(metrics: Metrics) -> dict[tuple, float]:
    families = parse_text(metrics.render()[0].decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_what_happened_is_counted(metrics):
    values = samples(metrics)
    ok = (("model", "tiny"), ("outcome", "ok"), ("task", "panoptic"))
    assert values["knet_requests_total", *ok] == 1
    assert values["knet_request_duration_seconds_sum", *ok] == pytest.approx(0.12)
    assert values["knet_request_duration_seconds_bucket", ("le", "0.1"), *ok] == 0
    assert values["knet_request_duration_seconds_bucket", ("le", "0.15"), *ok] == 1
    assert values["knet_stage_duration_seconds_count", ("model", "tiny"), ("stage", "decode")] == 1
    assert values["knet_batch_size_sum", ("model", "tiny")] == 11
    assert values["knet_batch_size_bucket", ("le", "3.0"), ("model", "tiny")] == 1
    assert values["knet_engine_busy_seconds_total", ("model", "tiny")] == 0.75
    assert values["knet_refusals_total", ("cause", "queue-full")] == 1
    assert values["knet_engine_restarts_total", ("model", "tiny")] == 1
    assert values["knet_queued", ("model", "tiny")] == 3
    labels = (("model", "tiny"), ("variant", "openvino-bf16"), ("version", "2"))
    assert values["knet_model_info", *labels] == 1


@pytest.mark.parametrize("accept", ["", "text/plain", OPENMETRICS])
def test_names_types_and_help_keep_the_conventions(metrics, accept):
    """What `promtool check metrics` would say."""
    content, media_type = metrics.render(accept)
    is_open = "openmetrics" in media_type
    families = list((parse_openmetrics if is_open else parse_text)(content.decode()))
    assert {"knet_requests", "knet_build" if is_open else "knet_build_info"} <= {family.name for family in families}
    assert {"process_resident_memory_bytes", "process_open_fds"} <= {family.name for family in families}
    for family in families:
        assert re.fullmatch("(knet|process)(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search("_(ms|milliseconds|minutes|kb|mb|megabytes|count|sum|bucket)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert not sample.name.endswith("_created")
            assert all(re.fullmatch("[a-z_]+", label) for label in sample.labels)


def test_openmetrics_is_given_to_those_who_ask(metrics):
    assert metrics.render()[1].startswith("text/plain; version=0.0.4")
    content, media_type = metrics.render(f"{OPENMETRICS},text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text; version=1.0.0")
    assert content.endswith(b"# EOF\n")
    assert metrics.render("application/openmetrics-text;version=what")[1] == media_type


def test_names_that_nobody_loaded_are_no_labels(metrics):
    for number in range(1000):
        metrics.answered(model=f"stray-{number}", task=f"stray-{number}", outcome="not-found", seconds=0.001)
        metrics.stage(model=f"stray-{number}", stage="decode", seconds=0.001)
    assert b"stray-" not in metrics.render()[0]
    unknown = (("model", "unknown"), ("outcome", "not-found"), ("task", "unknown"))
    assert samples(metrics)["knet_requests_total", *unknown] == 1000


def test_a_model_loaded_later_is_known_then_and_stays_known():
    metrics, models = Metrics(), [("tiny", "1", "x")]
    metrics.loaded(lambda: models)
    models.append(("late", "1", "x"))
    metrics.restarted(model="late")
    models.clear()
    metrics.restarted(model="late")
    assert samples(metrics)["knet_engine_restarts_total", ("model", "late")] == 2


def test_a_reading_that_fails_hides_no_other(metrics, caplog):
    metrics.watch("in_flight", lambda: {}["gone"])
    assert samples(metrics)["knet_queued", ("model", "tiny")] == 3
    assert "cannot read knet_in_flight" in caplog.text
    metrics.loaded(lambda: {}["gone"])
    metrics.restarted(model="tiny")
    assert samples(metrics)["knet_engine_restarts_total", ("model", "tiny")] == 2


def test_an_unknown_gauge_is_refused(metrics):
    with pytest.raises(ValueError, match="unknown gauge 'queue'; legal: in_flight, queued"):
        metrics.watch("queue", dict)


def test_threads_lose_no_count(metrics):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: metrics.refused(cause="deadline"), range(2000)))
    assert samples(metrics)["knet_refusals_total", ("cause", "deadline")] == 2000


def test_gpu_memory_without_a_driver_is_empty():
    used, total = gpu.memory_used(), gpu.memory_total()
    assert used.keys() == total.keys()
    assert all(0 <= used[device] <= total[device] for device in used)
    if gpu.find_gpu() is None:
        assert not used


def test_a_server_tells_its_metrics(http: httpx.Client):
    response = http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "process_resident_memory_bytes" in {family.name for family in parse_text(response.text)}
    response = http.get("/metrics", headers={"Accept": OPENMETRICS})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert list(parse_openmetrics(response.text))
