"""Annotated images as tensors: whole for evaluation, as random crops for training.

Legend: S crop size, T segments, C crowds, L layers, h, w content of a crop.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from service.errors import RequestError
from service.image import decode
from training.augment import AugmentConfig, Crop, augment
from training.copy_paste import Donor
from training.data.index import Annotation, Record
from training.data.size import check_size
from training.draw import Draw
from training.sample_cache import SampleCache


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A whole annotated image."""

    image: Tensor  # uint8 (3, H, W), RGB; of a gray image one channel, seen three times
    is_gray: bool
    annotation: Annotation

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return self.image.untyped_storage().nbytes() + self.annotation.layers.nbytes


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a crop shows. A pixel in no mask and no crowd is void, or padding."""

    masks: Tensor  # bool (T, S, S), things and stuff; those of things may overlap where the format lets them
    class_index: Tensor  # int64 (T,)
    crowd_masks: Tensor  # bool (C, S, S), regions of uncounted objects: void to masks, a class to the semantic map
    crowd_class: Tensor  # int64 (C,)
    valid_size: tuple[int, int]  # height and width of the content, at the top left
    pixel_mean: float  # of the whole image, see augment.Crop
    pixel_std: float
    path: Path  # the image file, for messages

    def pin_memory(self) -> "Target":
        """In memory that a GPU copies from while it computes; torch's loader calls this."""
        names = ("masks", "class_index", "crowd_masks", "crowd_class")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


def read_sample(record: Record) -> Sample:
    """Read image and annotation, with the very decoder that serves.

    Raises ValueError, naming the file, where one is unreadable or they do not fit together.
    """
    try:
        pixels = decode(record.image_path.read_bytes())
    except (OSError, RequestError) as error:
        raise ValueError(f"{record.image_path}: {error}. Replace the file, or remove it from the data set") from error
    check_size(record.image_path, pixels.shape, (record.height, record.width))
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    is_gray = bool((image[0] == image[1]).all() and (image[0] == image[2]).all())
    return Sample(
        image=image[:1].clone().expand(3, -1, -1) if is_gray else image,
        is_gray=is_gray,
        annotation=record.source.read(record.height, record.width),
    )


class TrainingSamples(Dataset[tuple[Tensor, Target]]):
    """An endless list of random crops: element n, for any n >= 0, depends on `seed` and n alone.

    So a run that is resumed at step k sees what it would have seen. Which image a crop is of: training/draw.py.

    Segments of fewer than the configured `min_area` pixels in the crop become void: of an object cut off by the border
    so little says nothing, and a small piece is neither to be found nor to be held against the background.
    """

    def __init__(
        self,
        records: Sequence[Record],
        augment_config: AugmentConfig,
        *,
        seed: int,
        group_power: float = 0.5,
        group_weights: Mapping[str, float] | None = None,
        things: Collection[int] = (),
        cache_bytes: int = 2**30,
    ) -> None:
        """`things` are the class indices of objects, for copy-paste.

        Decoded images are kept in `cache_bytes` of memory, divided among the loader's worker processes.

        An image takes 7 bytes a pixel, 5 if gray, and 4 more for each further layer. Those used longest ago make
        room for others. 0 keeps none.
        """
        self._records = tuple(records)
        self._config = augment_config
        self._seed = seed
        self._things = tuple(things)
        self._cache: SampleCache[Sample] = SampleCache(cache_bytes)
        if augment_config.copy_paste_probability and not things:
            raise ValueError("copy_paste_probability is above 0, but the data has no things: legal: 0")
        groups = [record.group for record in self._records]
        self._draw = Draw(groups, seed, power=group_power, weights=group_weights or {})

    def __len__(self) -> int:
        """Number of images. Elements beyond it exist too."""
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Crop number `index`: uint8 (3, S, S) and what it shows."""
        rng = np.random.default_rng((self._seed, index))
        number = self._draw.image(index, rng)
        sample = self._read(number)
        annotation = sample.annotation
        class_index, is_crowd = annotation.class_index, annotation.is_crowd
        donor = None
        # No number is drawn where nothing is pasted, so that a run with the probability 0 is what it was without it.
        if self._config.copy_paste_probability and rng.random() < self._config.copy_paste_probability:
            other = self._other_of_group(number, rng)
            donor = self._donor(other, first_id=len(class_index))
            class_index = np.concatenate([class_index, other.annotation.class_index])
            is_crowd = np.concatenate([is_crowd, other.annotation.is_crowd])
        layers = torch.from_numpy(annotation.layers)
        crop = augment(sample.image, layers, is_gray=sample.is_gray, config=self._config, rng=rng, donor=donor)
        path = self._records[number].image_path
        return crop.image, target_of(crop, class_index, is_crowd, min_area=self._config.min_area, path=path)

    def _other_of_group(self, number: int, rng: np.random.Generator) -> Sample:
        """Another image of the same group; the same one where it is alone."""
        group = np.flatnonzero(self._draw.group_of == self._draw.group_of[number])
        others = group[group != number]
        return self._read(int(rng.choice(others)) if len(others) else number)

    def _donor(self, sample: Sample, first_id: int) -> Donor:
        annotation = sample.annotation
        is_thing = np.isin(annotation.class_index, self._things)
        return Donor(
            image=sample.image,
            is_gray=sample.is_gray,
            layers=torch.from_numpy(annotation.layers),
            is_pastable=torch.from_numpy(is_thing & ~annotation.is_crowd),
            first_id=first_id,
        )

    def _read(self, number: int) -> Sample:
        sample = self._cache.get(number)
        if sample is None:
            sample = read_sample(self._records[number])
            self._cache.put(number, sample, sample.num_bytes)
        return sample


def target_of(
    crop: Crop, class_index: NDArray[np.int64], is_crowd: NDArray[np.bool_], *, min_area: int, path: Path
) -> Target:
    """What `crop` shows of the T segments whose classes are given; those below `min_area` pixels become void."""
    areas = torch.stack([torch.bincount(layer.flatten(), minlength=len(class_index) + 1)[1:] for layer in crop.layers])
    is_seen = areas.sum(dim=0) >= min_area
    crowds = torch.from_numpy(is_crowd)
    layer_of = areas.argmax(dim=0)  # a segment lies in one layer

    def select(chosen: Tensor) -> tuple[Tensor, Tensor]:
        numbers = torch.nonzero(chosen)[:, 0]
        ids = (numbers + 1).to(torch.int32)[:, None, None]
        if len(crop.layers) == 1:
            masks = crop.layers == ids
        else:
            masks = torch.zeros(len(ids), *crop.layers.shape[1:], dtype=torch.bool)
            for number, layer in enumerate(crop.layers):
                inside = layer_of[numbers] == number
                masks[inside] = layer == ids[inside]
        return masks, torch.from_numpy(class_index)[numbers]

    masks, mask_class = select(is_seen & ~crowds)
    crowd_masks, crowd_class = select(is_seen & crowds)
    return Target(
        masks=masks,
        class_index=mask_class,
        crowd_masks=crowd_masks,
        crowd_class=crowd_class,
        valid_size=crop.valid_size,
        pixel_mean=crop.pixel_mean,
        pixel_std=crop.pixel_std,
        path=path,
    )


def collate(samples: Sequence[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
    """Images (B, 3, S, S) and their targets, which differ in the number of segments."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)
