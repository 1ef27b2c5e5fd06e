"""The dashboard and the alerts ask for metrics and labels that a server really has."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.errors import CodecDownError, DeadlineError, EngineDownError, RequestError, ServiceError
from service.metrics import Metrics

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
DASHBOARD = json.loads((DOCKER / "grafana/knet.json").read_text())
ALERTS = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}
BY_PROMETHEUS = {"up"}
LABELS_BY_PROMETHEUS = {"job", "instance", "le"}


def questions() -> list[str]:
    """All PromQL of both."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    definitions = [one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    variables = [re.sub(r"^label_values\((.*), \w+\)$", r"\1", definition) for definition in definitions]
    return [*panels, *variables, *(rule["expr"] for rule in RULES)]


def names_and_labels(question: str) -> tuple[set[str], set[str]]:
    """Metrics and labels that a question in PromQL speaks of."""
    bare = re.sub(r'"[^"]*"', '""', question)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"\"", bare))
    for group in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", bare):
        labels |= {label.strip() for label in group.split(",")}
    bare = re.sub(r"\b(?:by|without)\s*\([^)]*\)|\{[^}]*\}|\[[^]]*\]", " ", bare)
    return set(re.findall(r"(?<![\w$.])[a-zA-Z_]\w*\b(?!\s*\()", bare)), labels


def test_questions_are_taken_apart():
    question = 'sum by (le, x) (rate(a_bucket{b=~"$c", d!="e f"}[5m])) / on_g > 0.5e3'
    assert names_and_labels(question) == ({"a_bucket", "on_g"}, {"le", "x", "b", "d"})


@pytest.fixture
def one_of_each() -> Metrics:
    metrics = Metrics()
    metrics.loaded(lambda: [("tiny", "1", "x")])
    metrics.answered(model="tiny", task="panoptic", outcome="ok", seconds=1)
    metrics.stage(model="tiny", stage="decode", seconds=1)
    metrics.batch(model="tiny", size=1, seconds=1)
    metrics.refused(cause="queue-full")
    metrics.restarted(model="tiny")
    for name in ("in_flight", "queued", "ready_engines", "engine_memory_bytes"):
        metrics.watch(name, lambda: {"tiny": 1})
    for name in ("gpu_memory_used_bytes", "gpu_memory_total_bytes"):
        metrics.watch(name, lambda: {"0": 1})
    return metrics


def test_a_server_has_every_metric(http):
    families = list(text_string_to_metric_families(http.get("/metrics").text))
    served = {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}
    asked = {name for question in questions() for name in names_and_labels(question)[0]}
    assert asked - served == BY_PROMETHEUS


def test_metrics_have_every_label(one_of_each):
    families = text_string_to_metric_families(one_of_each.render()[0].decode())
    labels = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    for question in questions():
        names, asked = names_and_labels(question)
        for name in names - BY_PROMETHEUS:
            assert asked <= labels[name] | LABELS_BY_PROMETHEUS, question


def test_everything_measured_of_requests_is_shown(one_of_each):
    families = text_string_to_metric_families(one_of_each.render()[0].decode())
    measured = {family.name for family in families if family.name.startswith("knet_")}
    shown = " ".join(questions())
    assert not [name for name in measured if name not in shown]


def test_the_dashboard_is_whole():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in panels for target in panel["targets"])
    assert {one["name"] for one in DASHBOARD["templating"]["list"]} == {"datasource", "job", "instance", "model"}
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_what_the_server_did_wrong_is_an_error_and_no_more():
    patterns = {found for question in questions() for found in re.findall(r'outcome=~"([^"]*)"', question)}
    assert patterns
    for pattern in patterns:
        for error in (ServiceError, EngineDownError, CodecDownError, DeadlineError):
            assert re.fullmatch(pattern, error.type)
        assert not [error for error in RequestError.__subclasses__() if re.fullmatch(pattern, error.type)]


def test_alerts_say_what_is_wrong():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        kept = re.search(r"\bby \(([^)]*)\)", rule["expr"])
        assert kept is None or used <= {label.strip() for label in kept[1].split(",")}
