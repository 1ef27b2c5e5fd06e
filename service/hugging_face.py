"""The answer of Hugging Face's image-segmentation task: a list of label, score and mask as a base64 PNG."""

import base64

import numpy as np
import orjson
from numpy.typing import NDArray

from service import rle
from service.answers import SCORE_DECIMALS
from service.artifact import ArtifactMetadata
from service.errors import InvalidParameterError
from service.instances import Instances, Result
from service.pixels import gray_png

# Each mask is a picture of the whole image: what many of them take of time and memory has to end somewhere.
MAX_MASK_PIXELS = 2**31
MAX_MASK_BYTES = 64 * 2**20


def encode(result: Result, metadata: ArtifactMetadata, *, with_scores: bool) -> bytes:
    """JSON: `[{"label", "score", "mask"}]`; masks are gray PNGs of the posted size, 255 inside and 0 outside.

    `score` is null without scores (of the semantic task).

    Raises:
        InvalidParameterError: the masks have more than `MAX_MASK_PIXELS` pixels or `MAX_MASK_BYTES` bytes together.
    """
    height, width = result.image_size if isinstance(result, Instances) else result.id_map.shape
    num_segments = len(result.segments)
    if num_segments * height * width > MAX_MASK_PIXELS:
        raise InvalidParameterError(
            f"{num_segments} masks of {width} x {height} have {num_segments * height * width:,} pixels, an answer may "
            f"have {MAX_MASK_PIXELS:,}; ask for format=rle or polygon, or for fewer segments"
        )
    entries, num_bytes = [], 0
    for index, segment in enumerate(result.segments):
        mask = base64.b64encode(gray_png(_mask(result, index) * np.uint8(255)))
        num_bytes += len(mask)
        if num_bytes > MAX_MASK_BYTES:
            raise InvalidParameterError(
                f"the masks have more than {MAX_MASK_BYTES:,} bytes; ask for format=rle or polygon, or fewer segments"
            )
        entries.append(
            {
                "label": metadata.categories[segment.class_index].name,
                "score": round(segment.score, SCORE_DECIMALS) if with_scores else None,
                "mask": mask.decode("ascii"),
            }
        )
    return orjson.dumps(entries)


def _mask(result: Result, index: int) -> NDArray[np.bool_]:
    """Of one segment (H, W)."""
    if isinstance(result, Instances):
        return rle.decode(result.counts[index], result.image_size)
    return np.asarray(result.id_map == result.segments[index].id)
