"""An accelerator that is not there: a fixed time a run whatever the batch, hardly any processor time, likely answers.

A server that is given `open_session` in place of `service.variants.open_session` shows what the host makes of a fast
engine. The device is one, as a GPU is, and has a queue: what threads and processes hand over runs in that order, each
as soon as the last has ended, whatever the host does then. Each image gets a map of its own, so that mixed-up answers
are found: its last segment is a square whose place comes from the image's pixels.

B canvases of H x W pixels, h x w cells, N slots.
"""

import fcntl
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from service import artifact
from service.artifact import ArtifactMetadata, Category, Geometry, Thresholds, Variant, file_sha256
from service.session import Arrays

NAME = "simulated"
_DEVICE = "device.json"  # what stands in place of a graph
_RECORD = "record.f64"  # runs, images, seconds, and until when the device has work (time.monotonic)
_NUM_SLOTS = 100
_PLACES = 9973  # of the square; prime, so that sums of pixels spread


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the device has done since its artifact was written: runs, images in them, seconds in them."""

    runs: float
    images: float
    seconds: float


def write_artifact(
    repository: Path,
    *,
    seconds: float,
    num_segments: int = 20,
    size: tuple[int, int] = (480, 640),
    stride: int = 4,
) -> Path:
    """Write `repository`/simulated/1, a panoptic model of one canvas size (H, W), and give its folder."""
    folder = repository / NAME / "1"
    folder.mkdir(parents=True)
    (folder / _DEVICE).write_text(json.dumps({"seconds": seconds, "num_segments": num_segments}))
    np.zeros(4).tofile(folder / _RECORD)
    metadata = ArtifactMetadata(
        name=NAME,
        version="1",
        kind="panoptic",
        categories=(
            Category(id=1, name="thing", is_thing=True, colour=(255, 0, 0)),
            Category(id=2, name="stuff", is_thing=False, colour=(0, 0, 255)),
        ),
        geometry=Geometry(mode="fit", size=size),
        output_stride=stride,
        num_slots=_NUM_SLOTS,
        uses_image_statistics=False,
        thresholds=Thresholds(score=0.3, overlap=0.6),
        variants=(
            # The name of a runtime that is installed everywhere; this module's `open_session` runs it instead.
            Variant(runtime="onnxruntime", precision="fp32", file=_DEVICE, sha256=file_sha256(folder / _DEVICE)),
        ),
    )
    artifact.save(metadata, folder)
    return folder


def read_record(folder: Path) -> Record:
    """What the device of an artifact's folder has done so far."""
    runs, images, seconds, _ = np.fromfile(folder / _RECORD).tolist()
    return Record(runs=runs, images=images, seconds=seconds)


def open_session(
    folder: Path, variant: Variant, *, threads: int | None = None, paired_pixels: int = 0
) -> "SimulatedSession":
    """The simulated device of an artifact that `write_artifact` has written."""
    return SimulatedSession(folder, artifact.load(folder))


class SimulatedSession:
    """A `Session`; threads and processes may share the device."""

    runs_at_once = 2  # as on a GPU: one run waits on the device for the other

    def __init__(self, folder: Path, metadata: ArtifactMetadata) -> None:
        device = json.loads((folder / _DEVICE).read_text())
        self._seconds: float = device["seconds"]
        self._lock_path = folder / _DEVICE
        self._record = np.memmap(folder / _RECORD, np.float64, "r+")
        height, width = metadata.geometry.largest_canvas
        cells = height // metadata.output_stride, width // metadata.output_stride
        num_segments: int = device["num_segments"]
        self._square = max(cells[0] // 16, 1)
        self._num_segments = num_segments
        self._id_map = draw_segments(cells, num_segments - 1)
        slots = np.arange(_NUM_SLOTS)
        self._segment_id = np.where(slots < num_segments, slots + 1, 0).astype(np.int32)
        self._class_index = np.where(slots == 0, 1, 0).astype(np.int32)  # the first is the stuff
        self._score = (0.99 - 0.005 * slots).astype(np.float32)

    def crowd(self, pixels: int) -> float:
        """A second run may always wait on the device."""
        return 0

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs for `image` (B, H, W, 3), once the device has come to them and its time is over."""
        outputs = self._outputs(inputs["image"])
        with self._lock_path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            end = max(self._record[3], time.monotonic()) + self._seconds
            self._record[:3] += (1, len(inputs["image"]), self._seconds)
            self._record[3] = end
        time.sleep(max(0.0, end - time.monotonic()))
        return outputs

    def _outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        batch = len(images)
        height, width = self._id_map.shape
        id_map = np.empty((batch, height, width), np.int32)
        id_map[:] = self._id_map
        for cells, image in zip(id_map, images, strict=True):
            place = int(image[::32, ::32].sum(dtype=np.int64)) % _PLACES
            top, left = (place // 97) % (height - self._square), (place % 97) % (width - self._square)
            cells[top : top + self._square, left : left + self._square] = self._num_segments
        one_each = {"segment_id": self._segment_id, "class_index": self._class_index, "score": self._score}
        return {"id_map": id_map, **{name: np.tile(array, (batch, 1)) for name, array in one_each.items()}}


def draw_segments(size: tuple[int, int], count: int) -> NDArray[np.int32]:
    """Map (h, w) of `count` segments: 1 is the ground, the others are round with wavy edges, on a grid."""
    height, width = size
    num_columns = int(np.ceil(np.sqrt(max(count - 1, 1) * width / height)))
    num_rows = -(-(count - 1) // num_columns)
    rows, columns = np.mgrid[:height, :width]
    id_map = np.ones(size, np.int32)
    for number in range(count - 1):
        row, column = divmod(number, num_columns)
        down = (rows - (row + 0.5) * height / num_rows) * num_rows / height
        right = (columns - (column + 0.5) * width / num_columns) * num_columns / width
        waves = 0.06 * np.sin((3 + number % 4) * np.arctan2(down, right) + number)
        id_map[np.hypot(down, right) < 0.38 + waves] = number + 2
    return id_map


def write_photos(folder: Path, source: Path, *, count: int = 16, size: tuple[int, int] = (480, 640)) -> None:
    """Write `count` different JPEG files of (height, width): pieces of the image `source`, enlarged, with grain."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = size
    rng = np.random.default_rng(0)
    image = Image.open(source).convert("RGB")
    for number in range(count):
        piece_width = int(rng.integers(image.width // 2, image.width))
        piece_height = min(piece_width * height // width, image.height)
        left = int(rng.integers(0, image.width - piece_width + 1))
        top = int(rng.integers(0, image.height - piece_height + 1))
        box = left, top, left + piece_width, top + piece_height
        enlarged = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box))
        grain = Image.fromarray(rng.normal(128, 40, size).clip(0, 255).astype(np.uint8))
        grain = np.asarray(grain.filter(ImageFilter.GaussianBlur(0.8)), np.float32)[..., None] - 128
        Image.fromarray((enlarged + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"photo{number:02}.jpg", quality=90
        )


def write_crops(folder: Path, sources: Sequence[Path], *, count: int = 16, side: int = 256) -> None:
    """Write `count` different PNG files of `side` x `side` pixels cut from images that are at least as large."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image = Image.open(sources[number % len(sources)])
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        crop = image.crop((left, top, left + side, top + side))
        turned = crop.transpose(Image.Transpose.ROTATE_90) if number % 2 else crop
        turned.save(folder / f"crop{number:02}.png")
