"""docker-compose.yml is legal, closed, and agrees with the server's settings and the images."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import server
from service.settings import Settings, unknown_variables

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = {name: service for name, service in SERVICES.items() if service.get("image", "").startswith("knet-serve")}


def settings_of(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings in force in a container of an image whose KNET_HOST is 0.0.0.0."""
    monkeypatch.setenv("KNET_HOST", "0.0.0.0")
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_file_is_of_the_schema():
    subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE], check=True
    )


def test_up_alone_starts_the_server_on_the_cpu():
    (name,) = [name for name, service in SERVICES.items() if "profiles" not in service]
    assert SERVICES[name]["build"]["dockerfile"] == "docker/service.Dockerfile"
    assert SERVICES[name]["ports"] == ["127.0.0.1:8000:8000"]


def test_profiles_are_those_that_are_told():
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert profiles == {"gpu", "gpus", "observability", "train"}
    told = set(re.findall(r"--profile (\w+)|profile `(\w+)`", FILE.read_text()))
    assert {first or second for first, second in told} == profiles


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVERS)
def test_servers_settings_are_legal_and_there_is_time_to_drain(name, monkeypatch):
    service = SERVERS[name]
    assert unknown_variables(service["environment"]) == []
    settings = settings_of(service, monkeypatch)
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_delay_s + settings.drain_timeout_s + server._WRITE_S


def test_ports_inside_are_those_of_the_programs(monkeypatch):
    for service in SERVERS.values():
        port = settings_of(service, monkeypatch).port
        assert all(published.endswith(f":{port}") for published in service.get("ports", []))
    balancer = (ROOT / "docker/haproxy/haproxy.cfg").read_text()
    assert f"knet-gpu:{port}" in balancer
    assert SERVICES["balancer"]["ports"][0].endswith(re.search(r"bind :(\d+)", balancer)[1])
    (job,) = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"knet:{port}"]
    assert job["dns_sd_configs"][0]["port"] == port


def test_each_gpu_has_a_server_that_the_others_find():
    servers = [service for name, service in SERVERS.items() if name.startswith("gpu-")]
    devices = [service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for service in servers]
    assert devices == [[str(number)] for number in range(len(servers))]
    assert all(service["networks"]["default"]["aliases"] == ["knet-gpu"] for service in servers)


def test_files_that_are_built_and_mounted_exist():
    for service in SERVICES.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./docker"):
                assert (ROOT / source).exists(), source
            elif not source.startswith((".", "$")):
                assert source in COMPOSE["volumes"]


def test_grafana_finds_the_dashboard_and_prometheus():
    targets = {volume.split(":")[0]: volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    provisioning = ROOT / "docker/grafana/provisioning"
    assert targets["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/knet.yml").read_text())["providers"]
    dashboard = targets["./docker/grafana/knet.json"]
    assert Path(dashboard).parent == Path(provider["options"]["path"])
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["isDefault"] is True
    assert source["url"] == "http://prometheus:" + SERVICES["prometheus"]["ports"][0].rpartition(":")[2]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("haproxy", ["-c", "-f", "docker/haproxy/haproxy.cfg"]),
        ("promtool", ["check", "config", "docker/prometheus/prometheus.yml"]),
    ],
)
def test_programs_take_their_files(tool, arguments):
    path = shutil.which(tool, path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
    if path is None:
        pytest.skip(f"{tool} is not installed (Debian: apt-get install haproxy prometheus)")
    subprocess.run([path, *arguments], cwd=ROOT, check=True)
