"""Random changes of a training crop: where it is cut and how it lies, then its brightness, colour and noise.

Legend: S crop size, C 1 (gray) or 3, L layers, h, w content, N pixels.

Every choice is drawn from the given generator and the transforms are torchvision's functional ones, so that a
crop depends on nothing but its generator; torch's global one is shared with the thread that trains. Changes of
brightness and colour are made before the padding, which therefore stays 0.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode  # type: ignore[import-untyped]
from torchvision.transforms.v2 import functional as F

from training.copy_paste import Donor, paste

Placement = Literal["native", "fit"]

SKETCH_SIZE = 64  # of the grid of pixels that stands for the whole image

# Optical densities (R, G, B) of haematoxylin, eosin and DAB, Ruifrok and Johnston 2001.
_STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]).T
_STAINS_INVERSE = torch.linalg.inv(_STAINS)
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_YIQ_INVERSE = torch.linalg.inv(_YIQ)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far crops are changed. Zero, or 1 for the scale, turns a change off."""

    crop_size: int = 160  # S, pixels
    # "native": a box is cut at the image's own scale, jittered; "fit": large-scale jitter, the image is scaled to fit
    # the crop, times a factor, and then cut or padded.
    placement: Placement = "native"
    scale_jitter: float = 1.4  # native: scale is log-uniform in [1 / this, this]
    fit_scale: tuple[float, float] = (0.1, 2.0)  # fit: the factor is uniform between these (Mask2Former's)
    min_area: int = 4  # pixels of the crop; smaller pieces of segments become void
    pad_probability: float = 0.15  # of leaving the right part, the lower part or both empty, as served images have
    flip_probability: float = 0.5  # of mirroring left and right
    turns: bool = True  # by 0, 90, 180 or 270 degrees; with the flip all eight orientations
    invert_probability: float = 0.15  # of x -> 255 - x
    gain: float = 0.35  # contrast about the image's mean is scaled by e^(+- this)
    shift: float = 0.25  # brightness, in standard deviations of the image
    noise_probability: float = 0.2
    noise: float = 0.2  # strongest, in standard deviations of the image
    blur_probability: float = 0.15
    blur: float = 1.2  # strongest sigma, pixels
    stain: float = 0.25  # colour: concentration of each of three dyes is scaled by e^(+- this)
    hue: float = 0.06  # colour: turned by at most this part of the circle
    saturation: float = 0.35  # colour: scaled by e^(+- this)
    channel_gain: float = 0.15  # colour: contrast of each channel is scaled by e^(+- this)
    channel_shift: float = 0.15  # colour: of each channel, in its standard deviations
    gray_probability: float = 0.15  # colour: of becoming gray
    shuffle_probability: float = 0.1  # colour: of another order of the channels
    copy_paste_probability: float = 0.0  # of objects of another image of the same group, laid over this one

    def __post_init__(self) -> None:
        if self.crop_size < 1:
            raise ValueError(f"crop_size is {self.crop_size}; legal: at least 1 pixel")
        if self.scale_jitter < 1:
            raise ValueError(f"scale_jitter is {self.scale_jitter}; legal: 1 (none) or more")
        if self.min_area < 1:
            raise ValueError(f"min_area is {self.min_area}; legal: 1 pixel or more")
        if self.placement not in get_args(Placement):
            raise ValueError(f"placement is {self.placement!r}; legal: {', '.join(get_args(Placement))}")
        if not 0 < self.fit_scale[0] <= self.fit_scale[1]:
            raise ValueError(f"fit_scale is {self.fit_scale}; legal: two numbers above 0, the smaller first")
        for name, value in vars(self).items():
            if not isinstance(value, int | float):
                continue
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; legal: 0 to 1")
            if value < 0:
                raise ValueError(f"{name} is {value}; legal: 0 (none) or more")


# Cut at random, and changed in no way.
UNCHANGED = AugmentConfig(
    scale_jitter=1.0,
    pad_probability=0.0,
    flip_probability=0.0,
    turns=False,
    invert_probability=0.0,
    gain=0.0,
    shift=0.0,
    noise_probability=0.0,
    blur_probability=0.0,
    stain=0.0,
    hue=0.0,
    saturation=0.0,
    channel_gain=0.0,
    channel_shift=0.0,
    gray_probability=0.0,
    shuffle_probability=0.0,
)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """An augmented crop. Content lies at the top left; outside it image and layers are 0."""

    image: Tensor  # uint8 (3, S, S)
    layers: Tensor  # int32 (L, S, S)
    valid_size: tuple[int, int]  # height and width of the content
    pixel_mean: float  # of the whole image in the colours of this crop, before gain, shift, noise and blur
    pixel_std: float


def augment(
    image: Tensor,
    layers: Tensor,
    *,
    is_gray: bool,
    config: AugmentConfig,
    rng: np.random.Generator,
    donor: Donor | None = None,
) -> Crop:
    """Cut and change a random crop of `image` (uint8 (3, H, W)) and `layers` of segments (int32 (L, H, W)).

    `is_gray` says that the three channels are equal; they stay equal. Objects of a `donor` are pasted before the
    colours are changed.
    """
    sketch = _sketch(image)
    content, ids = scaled_crop(image[:1] if is_gray else image, layers, config, rng)
    if donor is not None:
        donor_image = donor.image[:1] if donor.is_gray else donor.image
        content, ids = paste(content, ids, *scaled_crop(donor_image, donor.layers, config, rng), donor, rng)
    content, mean, std = change_pixels(content, sketch[: len(content)], config, rng)
    height, width = ids.shape[1:]
    padding = [0, 0, config.crop_size - width, config.crop_size - height]  # left, top, right, bottom
    return Crop(
        image=F.pad(content, padding).expand(3, -1, -1),
        layers=F.pad(ids, padding),
        valid_size=(height, width),
        pixel_mean=mean,
        pixel_std=std,
    )


def scaled_crop(
    image: Tensor, layers: Tensor, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a random box of `image` (C, H, W) and `layers` (L, H, W), resize, flip and turn it: at most (S, S).

    The box is cut first, so that the cost is that of the crop whatever the size of the image.
    """
    size = layers.shape[1:]
    scale = _scale(max(size), config, rng)
    turns = int(rng.integers(4)) if config.turns else 0
    limits = _content_limits(config, rng)
    cuts = [_cut(length, limit, scale, rng) for length, limit in zip(size, limits, strict=True)]
    (top, box_height, height), (left, box_width, width) = cuts
    image = F.crop(image, top, left, box_height, box_width)
    ids = F.crop(layers, top, left, box_height, box_width)
    if (box_height, box_width) != (height, width):
        image = F.resize(image, [height, width], antialias=True)
        # "Nearest exact" samples at pixel centres, as the bilinear one does; plain "nearest" is half a pixel off.
        ids = F.resize(ids, [height, width], interpolation=InterpolationMode.NEAREST_EXACT)
    if rng.random() < config.flip_probability:
        image, ids = F.horizontal_flip(image), F.horizontal_flip(ids)
    return torch.rot90(image, turns, (1, 2)), torch.rot90(ids, turns, (1, 2))


def _scale(longest: int, config: AugmentConfig, rng: np.random.Generator) -> float:
    """Pixels of the crop per pixel of an image whose longer side is `longest`."""
    if config.placement == "fit":
        return config.crop_size / longest * rng.uniform(*config.fit_scale)
    return math.exp(rng.uniform(-1, 1) * math.log(config.scale_jitter))


def _content_limits(config: AugmentConfig, rng: np.random.Generator) -> tuple[int, int]:
    """Largest height and width of the content: S, or less where a part is to be left empty."""
    size = config.crop_size
    if rng.random() >= config.pad_probability:
        return size, size
    height, width = (int(length) for length in rng.integers(max(1, size // 2), size + 1, size=2))
    return ((height, size), (size, width), (height, width))[int(rng.integers(3))]


def _cut(length: int, limit: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int]:
    """Along one side: start and length of the box to cut, and its length after scaling (at most `limit`)."""
    box = min(length, max(1, round(limit / scale)))
    scaled = limit if box < length else max(1, min(limit, round(length * scale)))
    return int(rng.integers(length - box + 1)), box, scaled


def change_pixels(
    content: Tensor, sketch: Tensor, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, float, float]:
    """Change brightness, colour and sharpness of `content` (uint8 (C, h, w)).

    `sketch` (uint8 (C, N)), pixels of the whole image, is recoloured with it; returned are the new content and
    mean and standard deviation of the sketch, by which a network that normalises by the whole image's statistics
    does so. Gain and shift come after: they are what such a normalisation would otherwise undo.
    """
    num_pixels = content.shape[1] * content.shape[2]
    pixels = torch.cat([content.flatten(1), sketch], dim=1).float()
    if pixels.shape[0] == 3:
        pixels = _recolour(pixels, config, rng)
    if rng.random() < config.invert_probability:
        pixels = 255 - pixels
    pixels = pixels.clamp(0, 255)
    sketch = pixels[:, num_pixels:]
    mean, std = sketch.mean(), sketch.std()
    gain = math.exp(rng.uniform(-1, 1) * config.gain)
    shift = rng.uniform(-1, 1) * config.shift * std
    image = ((pixels[:, :num_pixels] - mean) * gain + (mean + shift)).reshape(content.shape)
    if rng.random() < config.blur_probability:
        image = F.gaussian_blur(image, [7, 7], [max(0.1, rng.uniform(0.3, 1) * config.blur)] * 2)
    if rng.random() < config.noise_probability:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + noise * (rng.uniform(0.1, 1) * config.noise * std)
    return image.round_().clamp_(0, 255).to(torch.uint8), float(mean), float(std)


def _recolour(pixels: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Change the colours of `pixels` (3, N), 0..255.

    Stained tissue differs by dye and scanner: so the strength of the dyes, in optical density (Tellez et al. 2018),
    then hue and saturation, then the channels. Hue is turned in YIQ, one matrix for all; in HSV it is not linear.
    """
    if rng.random() < config.gray_probability:
        gray: Tensor = F.rgb_to_grayscale(pixels[:, None], num_output_channels=3)
        return gray[:, 0]
    strengths = torch.tensor(np.exp(rng.uniform(-config.stain, config.stain, size=3)), dtype=torch.float32)
    density = ((pixels + 1) / 256).log_()
    pixels = (_STAINS * strengths @ _STAINS_INVERSE @ density).exp_() * 256 - 1
    angle = rng.uniform(-1, 1) * config.hue * 2 * math.pi
    saturation = math.exp(rng.uniform(-1, 1) * config.saturation)
    cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
    turn = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    pixels = _YIQ_INVERSE @ turn @ _YIQ @ pixels
    gains, shifts = torch.from_numpy(rng.uniform(-1, 1, size=(2, 3, 1)).astype(np.float32))
    mean, std = pixels.mean(dim=1, keepdim=True), pixels.std(dim=1, keepdim=True)
    pixels = (pixels - mean) * (gains * config.channel_gain).exp() + mean + shifts * config.channel_shift * std
    if rng.random() < config.shuffle_probability:
        pixels = pixels[torch.from_numpy(rng.permutation(3))]
    return pixels


def _sketch(image: Tensor) -> Tensor:
    """About SKETCH_SIZE^2 pixels (3, N), on a regular grid, of `image` (3, H, W)."""
    height, width = image.shape[1:]
    return image[:, :: math.ceil(height / SKETCH_SIZE), :: math.ceil(width / SKETCH_SIZE)].flatten(1)
