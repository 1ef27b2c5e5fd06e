"""docs/operation.md says what is so."""

import re
import tomllib
from pathlib import Path

import yaml

from service.metrics import Metrics
from service.settings import Settings
from service.settings_text import describe, describe_models

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/operation.md").read_text()


def rows(heading: str) -> list[str]:
    """Lines of the table whose first column has that heading."""
    table = TEXT[TEXT.index(f"| {heading} |") :].split("\n\n")[0]
    return table.splitlines()[2:]


def test_settings_are_those_of_the_server():
    assert rows("in the file") == [
        f"| `{one.name}` | `{one.variable}` | {one.default} | {one.description} |" for one in describe()
    ]
    assert rows("in `[models.NAME]`") == [f"| `{one.name}` | {one.description} |" for one in describe_models()]


def test_the_file_shown_is_legal(tmp_path):
    (shown,) = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    (tmp_path / "knet.toml").write_text(shown)
    settings = Settings(config=tmp_path / "knet.toml")
    assert settings.of_model("nuclei").variant == tomllib.loads(shown)["models"]["nuclei"]["variant"]


def test_metrics_are_those_of_the_server():
    told = set(re.findall(r"^\| `(knet_\w+)`(?:, `(knet_\w+)`)?", TEXT, re.M))
    exported = re.findall(r"^# TYPE (knet_\w+)", Metrics().render()[0].decode(), re.M)
    assert {name for names in told for name in names if name} == set(exported)


def test_alerts_are_those_of_the_file():
    alerts = yaml.safe_load((ROOT / "docker/prometheus/alerts.yml").read_text())
    assert [row.split("`")[1] for row in rows("alert")] == [
        rule["alert"] for group in alerts["groups"] for rule in group["rules"]
    ]
