"""The CPU image, really built by buildah on a base that debootstrap makes, and really started. As root:

    apt-get install buildah debootstrap
    pytest -m slow tests/docker/test_image.py

`IMAGE_TEST_BASE=FOLDER` names a root file system with Python 3.11 and its venv, and saves debootstrap's minutes.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knet.client import KNetClient, decode_mask

ROOT = Path(__file__).resolve().parents[2]
MAX_OWN_BYTES = 600_000_000
BUILD_TOOLS = ("gcc", "cc", "g++", "ld", "make", "git", "pip")
LARGE_OR_FOREIGN = ("torch", "timm", "onnx", "scipy", "pip", "setuptools")

pytestmark = pytest.mark.slow


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        folders = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self._command = ["buildah", *folders, "--storage-driver", "vfs"]

    def command(self, *arguments: str) -> list[str]:
        return [*self._command, *arguments]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory) -> Buildah:
    for tool in ("buildah", "unshare"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0:
        pytest.skip("buildah's chroot isolation is used as root here")
    return Buildah(tmp_path_factory.mktemp("buildah"))


@pytest.fixture(scope="module")
def base(buildah, tmp_path_factory) -> str:
    """An image with Debian's Python and nothing else."""
    folder = Path(os.environ.get("IMAGE_TEST_BASE") or tmp_path_factory.mktemp("base"))
    if not (folder / "usr").exists():
        if shutil.which("debootstrap") is None:
            pytest.skip("debootstrap is not installed")
        packages = "--include=python3,python3-venv"
        subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", folder], check=True)
    dockerfile = tmp_path_factory.mktemp("base-file") / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    buildah("build", "--isolation", "chroot", "--tag", "localhost/base", "--file", str(dockerfile), str(folder))
    return "localhost/base"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """All that is installed in the image, fetched by this machine's pip: the build itself needs no network."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, ROOT / "docker/requirements.py", "serve", "tracing"]
    requirements = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (folder / "requirements.txt").write_text(requirements + "hatchling==1.33.0\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--python-version", "3.11"]
    pip += ["--constraint", ROOT / "constraints.txt", "--requirement", folder / "requirements.txt"]
    subprocess.run([*pip, "--dest", folder], check=True)
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    return folder


@pytest.fixture(scope="module")
def image(buildah, base, wheels) -> str:
    volumes = ["--volume", f"{wheels}:/wheels:ro", "--volume", f"{wheels}/pip.conf:/etc/pip.conf:ro"]
    arguments = ["--build-arg", f"BASE={base}", "--build-arg", "REVISION=of-a-test", "--format", "docker"]
    file = ["--file", str(ROOT / "docker/service.Dockerfile")]
    tag = ["--tag", "localhost/knet-serve", str(ROOT)]
    buildah("build", "--isolation", "chroot", *arguments, *volumes, *file, *tag)
    return "localhost/knet-serve"


@pytest.fixture(scope="module")
def config(buildah, image) -> dict[str, Any]:
    """What the image says of itself."""
    return json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]


@pytest.fixture(scope="module")
def container(buildah, image) -> str:
    return buildah("from", "--pull-never", image)


@pytest.fixture(scope="module")
def root(buildah, container) -> Iterator[Path]:
    """The root of the container's file system."""
    yield Path(buildah("mount", container))
    buildah("umount", container)


def test_the_image_says_what_it_is(config):
    assert config["Entrypoint"] + config["Cmd"] == ["knet", "serve"]
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.revision"] == "of-a-test"


def test_its_own_layers_are_small(root):
    files = [path.lstat() for path in root.glob("opt/**/*")]
    own = sum({status.st_ino: status.st_size for status in files}.values())
    assert 200_000_000 < own < MAX_OWN_BYTES


def test_it_has_no_build_tools_and_no_torch(root):
    folders = [root / name for name in ("bin", "usr/bin", "usr/local/bin", "opt/knet/bin", "opt/app/bin")]
    assert [tool for tool in BUILD_TOOLS for folder in folders if (folder / tool).exists()] == []
    (packages,) = root.glob("opt/knet/lib/python3*/site-packages")
    assert [name for name in LARGE_OR_FOREIGN if (packages / name).exists()] == []
    assert list(packages.glob("openvino-*.dist-info"))  # which is what lists of an image's contents are made from
    assert list(root.glob("opt/app/knet_serve-*.dist-info"))


def by_chroot_isolation(buildah: Buildah, container: str, root: Path, environment: list[str]) -> list[str]:
    """`buildah run`, as the image's user, in the machine's network."""
    variables = [argument for one in environment for argument in ("--env", one)]
    return buildah.command("run", "--isolation", "chroot", *variables, container, "--")


def by_read_only_root(buildah: Buildah, container: str, root: Path, environment: list[str]) -> list[str]:
    """What `docker run --read-only --tmpfs /tmp` does with files."""
    mounts = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs tmpfs "$0/tmp"'
    mounts += (
        ' && mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot --userspec=65532:65532 "$0"'
    )
    return ["unshare", "--mount", "sh", "-c", f'{mounts} env -i "$@"', str(root), *environment]


@pytest.mark.parametrize("start", [by_chroot_isolation, by_read_only_root])
def test_it_serves_and_stops(start: Callable[..., list[str]], buildah, container, root, config):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = [*config["Env"], "KNET_HOST=127.0.0.1", f"KNET_PORT={port}"]
    inside = start(buildah, container, root, environment)
    process = subprocess.Popen([*inside, *config["Entrypoint"], *config["Cmd"]])
    try:
        with KNetClient(f"http://127.0.0.1:{port}", timeout=120) as client:
            client.wait_ready(180)
            answer = client.segment(ROOT / "examples/nuclei.png", model="nuclei", task="instance")
        subprocess.run([*inside, *config["Healthcheck"]["Test"][1:]], check=True)
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    finally:
        process.kill()
    assert status == 0 or start is by_chroot_isolation  # buildah hands no signal on, but kills what it runs
    assert answer["image"] == {"width": 696, "height": 520}
    assert len(answer["segments"]) > 150
    assert decode_mask(answer["segments"][0]).sum() == answer["segments"][0]["area"]
