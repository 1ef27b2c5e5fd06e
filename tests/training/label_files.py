"""Small image and label files for the tests of data sets."""

import numpy as np
from PIL import Image


def save(path, pixels, palette=None):
    """Write an image or label file, with its folder; of palette images `pixels` are the indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    if palette is not None:
        image.putpalette(palette)
    image.save(path)
    return path


def noise(seed=0, height=8, width=10):
    """An RGB image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def labels(*values, height=8, width=10, dtype=np.uint8):
    """A label image (H, W) of vertical stripes of the values."""
    return np.tile(np.repeat(np.array(values, dtype), -(-width // len(values)))[:width], (height, 1))


def coloured(*colours, height=8, width=10):
    """The same, of colours."""
    return np.array(colours, np.uint8)[labels(*range(len(colours)), height=height, width=width)]
