"""Annotated images as tensors: whole for evaluation, as random crops for training.

Legend: S crop size, T segments, h, w content of a crop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from service.errors import RequestError
from service.image import decode
from training.augment import AugmentConfig, augment
from training.formats import Record, SegmentInfo


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A whole annotated image. Segment i of `class_index` and `is_crowd` has id i + 1 in `id_map`."""

    image: Tensor  # uint8 (3, H, W), RGB; of a gray image one channel, seen three times
    is_gray: bool
    id_map: Tensor  # int32 (H, W), 0 = void
    class_index: Tensor  # int64 (T,)
    is_crowd: Tensor  # bool (T,)

    @property
    def segments(self) -> tuple[SegmentInfo, ...]:
        """The segments of `id_map`, for `metrics.Evaluation`."""
        known = zip(self.class_index.tolist(), self.is_crowd.tolist(), strict=True)
        return tuple(
            SegmentInfo(id=number, class_index=class_index, is_crowd=is_crowd)
            for number, (class_index, is_crowd) in enumerate(known, start=1)
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a crop shows. A pixel in no mask is void, or padding."""

    masks: Tensor  # bool (T, S, S), things and stuff
    class_index: Tensor  # int64 (T,)
    valid_size: tuple[int, int]  # height and width of the content, at the top left
    pixel_mean: float  # of the whole image, see augment.Crop
    pixel_std: float


def read_sample(record: Record) -> Sample:
    """Read image and id-map, with the very decoder that serves.

    Raises ValueError, naming the file, where one is unreadable or they do not fit the annotation.
    """
    try:
        pixels = decode(record.image_path.read_bytes())
    except (OSError, RequestError) as error:
        raise ValueError(f"{record.image_path}: {error}. Replace the file, or remove it from the data set") from error
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    id_map = read_id_map(record.png_path)
    for path, size in ((record.image_path, image.shape[1:]), (record.png_path, id_map.shape)):
        if tuple(size) != (record.height, record.width):
            raise ValueError(
                f"{path} is {size[1]}x{size[0]}, its annotation says {record.width}x{record.height}: "
                "correct the annotation, or turn and resize the image"
            )
    is_gray = bool((image[0] == image[1]).all() and (image[0] == image[2]).all())
    return Sample(
        image=image[:1].clone().expand(3, -1, -1) if is_gray else image,
        is_gray=is_gray,
        id_map=torch.from_numpy(_number_segments(id_map, record)),
        class_index=torch.tensor([segment.class_index for segment in record.segments], dtype=torch.int64),
        is_crowd=torch.tensor([segment.is_crowd for segment in record.segments], dtype=torch.bool),
    )


def read_id_map(path: Path) -> NDArray[np.int32]:
    """The ids (H, W) in a COCO panoptic PNG. Raises ValueError where it is not one."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{path} is not an 8-bit RGB PNG; in COCO panoptic the id is R + 256 G + 65536 B")
    blue, green, red = (image[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray(red + 256 * green + 65536 * blue, np.int32)


def _number_segments(id_map: NDArray[np.int32], record: Record) -> NDArray[np.int32]:
    """`id_map` (H, W) with the ids of the file replaced by 1..T, in the order of the record's segments."""
    ids = np.array([0, *(segment.id for segment in record.segments)], np.int32)
    order = np.argsort(ids)
    places = np.searchsorted(ids[order], id_map).clip(max=len(ids) - 1)
    numbers: NDArray[np.int32] = order[places].astype(np.int32)
    unknown = id_map[ids[numbers] != id_map]
    if unknown.size:
        raise ValueError(
            f"{record.png_path} holds ids that are not in segments_info: {np.unique(unknown)[:5].tolist()}; "
            "list them there, or set their pixels to 0 (void)"
        )
    return numbers


class TrainingSamples(Dataset[tuple[Tensor, Target]]):
    """An endless list of random crops: element n, for any n >= 0, depends on `seed` and n alone.

    So a run that is resumed at step k sees what it would have seen. Groups are drawn with a probability
    proportional to (number of images) ** `group_power`, times the value in `group_weights` whose key ends the
    group's name ({"colour": 1.5}); within a group all images alike.

    Segments of fewer than `min_area` pixels in the crop become void: of a nucleus cut off by the border so little
    says nothing, and a small piece is neither to be found nor to be held against the background.
    """

    def __init__(
        self,
        records: Sequence[Record],
        augment_config: AugmentConfig,
        *,
        seed: int,
        group_power: float = 0.5,
        group_weights: Mapping[str, float] | None = None,
        min_area: int = 4,
        cache: bool = True,
    ) -> None:
        """`cache` keeps decoded images in memory (7 bytes a pixel, 5 if gray), in each worker process its own."""
        self._records = tuple(records)
        self._config = augment_config
        self._seed = seed
        self._min_area = min_area
        self._cache: dict[int, Sample] | None = {} if cache else None
        groups = [record.group for record in self._records]
        names, self._group_of, counts = np.unique(groups, return_inverse=True, return_counts=True)
        weights = counts.astype(np.float64) ** group_power
        for suffix, weight in (group_weights or {}).items():
            matching = np.array([name.endswith(suffix) for name in names])
            if not matching.any():
                raise ValueError(f"group_weights: no group ends with {suffix!r}; groups: {', '.join(names)}")
            weights[matching] *= weight
        self._probabilities = (weights / counts / weights.sum())[self._group_of]

    def __len__(self) -> int:
        """Number of images. Elements beyond it exist too."""
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Crop number `index`: uint8 (3, S, S) and what it shows."""
        rng = np.random.default_rng((self._seed, index))
        sample = self._read(int(rng.choice(len(self._records), p=self._probabilities)))
        crop = augment(sample.image, sample.id_map, is_gray=sample.is_gray, config=self._config, rng=rng)
        areas = torch.bincount(crop.id_map.flatten(), minlength=len(sample.class_index) + 1)[1:]
        kept = torch.nonzero((areas >= self._min_area) & ~sample.is_crowd)[:, 0]
        target = Target(
            masks=crop.id_map == (kept + 1).to(torch.int32)[:, None, None],
            class_index=sample.class_index[kept],
            valid_size=crop.valid_size,
            pixel_mean=crop.pixel_mean,
            pixel_std=crop.pixel_std,
        )
        return crop.image, target

    def _read(self, number: int) -> Sample:
        if self._cache is None:
            return read_sample(self._records[number])
        if number not in self._cache:
            self._cache[number] = read_sample(self._records[number])
        return self._cache[number]


def collate(samples: Sequence[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
    """Images (B, 3, S, S) and their targets, which differ in the number of segments."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)
