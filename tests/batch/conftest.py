import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.settings import Settings


@pytest.fixture(scope="session")
def batch_repository(tiny, tmp_path_factory) -> Path:
    """A model of each kind: red values tell what is where."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("panoptic", "instance", "semantic"):
        tiny.write_artifact(folder, kind=kind, name=kind)
    tiny.write_artifact(folder, kind="panoptic", name="slow", work=10)
    return folder


@pytest.fixture(scope="session")
def batch_settings(batch_repository) -> Settings:
    return Settings(repository=batch_repository, engine_threads=1, max_batch=2)


@pytest.fixture(scope="session")
def make_scene() -> Callable[[int], np.ndarray]:
    """Makes the pixels (50, 40, 3) of image `number`: things 3 and 7 on stuff 12, elsewhere in each."""

    def make(number: int) -> np.ndarray:
        image = np.zeros((50, 40, 3), np.uint8)
        image[..., 0] = 12
        top, left = number % 7, number % 11
        image[4 + top : 14 + top, 6 + left : 16 + left, 0] = 3
        image[30:44, 2 + left : 20 + left, 0] = 7
        image[..., 2] = number
        return image

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[[np.ndarray], bytes]:
    def encode_png(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    return encode_png


@pytest.fixture
def image_folder(tmp_path, make_scene, encode) -> Path:
    """Twelve images, in folders, one of them cut short and one that is none."""
    folder = tmp_path / "images"
    for number in range(12):
        path = folder / f"part{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(make_scene(number)))
    (folder / "part0" / "short.png").write_bytes(encode(make_scene(0))[:90])
    (folder / "words.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not listed")
    return folder


@pytest.fixture(scope="session")
def read_tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
