from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

TINY = Path(__file__).parents[1] / "service" / "tiny_artifact.py"


@pytest.fixture(scope="session")
def nuclei_repository(tmp_path_factory, load_module) -> Path:
    """A repository whose model `nuclei` is the service tests' tiny graph: red values are segments."""
    tiny = load_module(TINY)
    folder = tmp_path_factory.mktemp("nuclei")
    tiny.write_artifact(folder, name="nuclei", version="1")
    tiny.write_artifact(folder, name="nuclei", version="2", stride=2)
    return folder


@pytest.fixture(scope="session")
def nuclei_server(nuclei_repository) -> Iterator[str]:
    with background(Settings(repository=nuclei_repository, port=0, api_keys=("a key of 16 bytes",))) as url:
        with KNetClient(url) as client:
            client.wait_ready()
        yield url


@pytest.fixture
def image_path(tmp_path) -> Path:
    """An image with things 3 and 7 on stuff 12."""
    image = np.zeros((50, 40, 3), np.uint8)
    image[..., 0] = 12
    image[4:14, 6:16, 0] = 3
    image[30:44, 2:20, 0] = 7
    path = tmp_path / "cells.png"
    Image.fromarray(image).save(path)
    return path
