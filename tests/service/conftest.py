import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.artifact import Geometry
from service.server import background
from service.settings import Settings
from tests.service.driving import wait_ready


@pytest.fixture(scope="session")
def repository(tiny, tmp_path_factory) -> Path:
    """A repository with one model in versions 2 and 10."""
    folder = tmp_path_factory.mktemp("repository")
    tiny.write_artifact(folder, version="2")
    tiny.write_artifact(folder, version="10", stride=2)
    return folder


@pytest.fixture(scope="session")
def server(repository) -> Iterator[str]:
    """URL of a real, ready server of that repository."""
    with background(Settings(repository=repository, port=0, max_pixels=1_000_000, max_body_bytes=4_000_000)) as url:
        wait_ready(url)
        yield url


@pytest.fixture
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=30) as client:
        yield client


@pytest.fixture
def scene() -> np.ndarray:
    """RGB image (50, 40, 3): things 3, 7 and 1 on stuff 12; the values of red are slots of the tiny graph."""
    image = np.zeros((50, 40, 3), np.uint8)
    image[..., 0] = 12
    image[4:14, 6:16, 0] = 3
    image[20:30, 20:34, 0] = 1
    image[30:44, 2:20, 0] = 7
    image[..., 1] = 40
    return image


@pytest.fixture(scope="session")
def png() -> Callable[[np.ndarray], bytes]:
    """Makes the file of an RGB image."""

    def make(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def read_png() -> Callable[[bytes], np.ndarray]:
    """Reads a PNG file as an RGB image."""
    return lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="session")
def slow_repository(tiny, tmp_path_factory) -> Path:
    """A model that takes about half a second an image on one thread of a fast machine."""
    folder = tmp_path_factory.mktemp("slow")
    tiny.write_artifact(folder, work=48, geometry=Geometry(mode="tile", sizes=(64,)))
    return folder


@pytest.fixture
def posted(scene) -> bytes:
    """A PNG file."""
    file = io.BytesIO()
    Image.fromarray(scene).save(file, "PNG")
    return file.getvalue()
