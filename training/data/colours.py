"""Colours for categories that have none."""

import colorsys


def distinct_colour(index: int) -> tuple[int, int, int]:
    """A colour for class `index`: hues a golden ratio apart never come close for neighbours."""
    hue = index * 0.6180339887 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.6)[index // 8 % 2], (0.95, 0.7)[index // 4 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)
