"""The manifests are legal, render, and agree with the server's settings and routes."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from knet.cli import app
from knet.completion import RECIPES
from service import server
from service.app import create_app
from service.metrics import Metrics
from service.settings import Settings, unknown_variables

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "kubernetes"
LABELS = {"app.kubernetes.io/name": "knet"}
OVERLAYS = ("base", "cpu", "gpu")
Manifest = dict[str, Any]


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def resources_of(folder: str) -> list[str]:
    """Names of the files of a folder that hold resources."""
    names: list[str] = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    return names


def written(folder: str) -> list[Manifest]:
    """The resources of a folder as they are written."""
    paths = [KUBERNETES / folder / name for name in resources_of(folder)]
    return [document for path in paths for document in documents(path.read_text())]


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_of(manifests: list[Manifest]) -> Manifest:
    return of_kind(manifests, "Deployment")["spec"]["template"]["spec"]


def variables(container: Manifest) -> dict[str, str]:
    """Environment of a container."""
    return {entry["name"]: entry["value"] for entry in container["env"]}


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    """What `kubectl apply -k` sends."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    return {
        overlay: documents(
            subprocess.run(
                [kubectl, "kustomize", KUBERNETES / overlay], capture_output=True, text=True, check=True
            ).stdout
        )
        for overlay in OVERLAYS
    }


@pytest.mark.parametrize("folder", ["base", "models", "training"])
def test_manifests_are_of_the_schemas(folder):
    for manifest in written(folder):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_sent_is_of_the_schemas(rendered, overlay):
    assert len(rendered[overlay]) >= 5
    for manifest in rendered[overlay]:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_all_select_the_same_pods():
    base = written("base")
    deployment = of_kind(base, "Deployment")["spec"]
    assert deployment["template"]["metadata"]["labels"] == LABELS
    assert deployment["selector"]["matchLabels"] == LABELS
    assert of_kind(base, "Service")["spec"]["selector"] == LABELS
    assert of_kind(base, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == LABELS
    assert of_kind(base, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == LABELS
    target = of_kind(base, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", of_kind(base, "Deployment")["metadata"]["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_servers_settings_are_legal_and_there_is_time_to_drain(rendered, overlay, monkeypatch):
    pod = pod_of(rendered[overlay])
    (container,) = pod["containers"]
    assert unknown_variables(variables(container)) == []
    monkeypatch.setenv("KNET_HOST", "0.0.0.0")  # the image's
    for name, value in variables(container).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    grace = settings.drain_delay_s + settings.drain_timeout_s + server._WRITE_S
    assert pod["terminationGracePeriodSeconds"] > grace
    period = container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]
    assert settings.drain_delay_s >= period
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/tmp", str(settings.api_keys_file.parent)} <= mounts
    assert overlay == "base" or str(settings.repository) in mounts


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_hardened(rendered, overlay):
    pod = pod_of(rendered[overlay])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_the_user_is_that_of_the_image():
    dockerfile = (ROOT / "docker/service.Dockerfile").read_text()
    context = pod_of(written("base"))["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile


def test_a_gpu_is_asked_for(rendered):
    (container,) = pod_of(rendered["gpu"])["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].startswith("knet-serve-gpu:")


def test_probes_ask_what_is_answered(tiny, tmp_path):
    tiny.write_artifact(tmp_path)
    paths = set(create_app(Settings(repository=tmp_path)).openapi()["paths"])
    (container,) = pod_of(written("base"))["containers"]
    runtime = yaml.safe_load((KUBERNETES / "kserve/serving-runtime.yaml").read_text())["spec"]["containers"][0]
    asked = {one[probe]["httpGet"]["path"] for one in (container, runtime) for probe in one if probe.endswith("Probe")}
    assert asked == {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert asked <= paths


def test_the_autoscaler_asks_for_a_metric_that_the_adapter_makes():
    (metric,) = of_kind(written("base"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"# TYPE {name} gauge" in Metrics().render()[0].decode()
    values = yaml.safe_load((KUBERNETES / "autoscaling/prometheus-adapter-values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name)


def test_kserve_serves_what_it_mounts(monkeypatch):
    runtime = yaml.safe_load((KUBERNETES / "kserve/serving-runtime.yaml").read_text())
    service = yaml.safe_load((KUBERNETES / "kserve/inference-service.yaml").read_text())
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [{key: one[key] for key in ("name", "version")} for one in runtime["spec"]["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    (container,) = runtime["spec"]["containers"]
    assert unknown_variables(variables(container)) == []
    monkeypatch.setenv("KNET_HOST", "0.0.0.0")
    for name, value in variables(container).items():
        monkeypatch.setenv(name, value)
    assert Settings().repository == Path("/mnt/models")
    assert container["ports"][0]["containerPort"] == Settings().port


def test_kserves_container_is_of_the_schema_of_pods():
    """KServe's own kinds have none here; what they hold is that of a pod."""
    spec = yaml.safe_load((KUBERNETES / "kserve/serving-runtime.yaml").read_text())["spec"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "knet"}, "spec": pod}
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_job_gives_each_machine_what_training_asks_for(tmp_path, monkeypatch):
    """The command is legal; numbers of machines and GPUs agree; the first pod has the name that the others ask for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "coco").mkdir(parents=True)
    (tmp_path / "data" / "resnet50.pth").touch()
    manifests = written("training")
    job, service = of_kind(manifests, "Job"), of_kind(manifests, "Service")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, *arguments = container["args"]
    with typer.main.get_command(app).commands[command].make_context(command, arguments) as context:
        assert context.params["nodes"] == job["spec"]["completions"] == job["spec"]["parallelism"]
        assert str(context.params["devices"]) == container["resources"]["limits"]["nvidia.com/gpu"]
        assert context.params["recipe"] in RECIPES
    environment = {entry["name"]: entry for entry in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert environment["MASTER_ADDR"]["value"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert "job-completion-index" in environment["NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert environment["MASTER_PORT"]["value"].isdigit()
    assert service["spec"]["clusterIP"] == "None"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"] != LABELS


def test_prometheus_finds_the_pods():
    (job,) = yaml.safe_load((KUBERNETES / "autoscaling/prometheus-scrape.yaml").read_text())
    keep = next(rule for rule in job["relabel_configs"] if rule.get("action") == "keep")
    assert keep["source_labels"] == [
        "__meta_kubernetes_pod_label_app_kubernetes_io_name",
        "__meta_kubernetes_pod_container_port_name",
    ]
    (container,) = pod_of(written("base"))["containers"]
    assert keep["regex"] == f"{LABELS['app.kubernetes.io/name']};{container['ports'][0]['name']}"


def test_every_file_is_checked():
    """A new one wants a test; resources of base, models and training are found by their kustomizations."""
    resources = {f"{folder}/{name}" for folder in ("base", "models", "training") for name in resources_of(folder)}
    rendered = {f"{folder}/kustomization.yaml" for folder in (*OVERLAYS, "models", "training")} | {
        "gpu/server.yaml",
        "models/mount.yaml",
    }
    others = {"kserve/serving-runtime.yaml", "kserve/inference-service.yaml"}
    others |= {"autoscaling/prometheus-adapter-values.yaml", "autoscaling/prometheus-scrape.yaml"}
    found = {path.relative_to(KUBERNETES).as_posix() for path in KUBERNETES.rglob("*") if path.is_file()}
    assert found == resources | rendered | others
