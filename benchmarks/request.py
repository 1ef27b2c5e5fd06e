"""Where the time of one request goes, step by step: the bundled model on the bundled images, or others.

    python -m benchmarks.request [--artifact NAME/VERSION] [--images FOLDER] [--repeats 9] [--threads N]

Prints a table of medians in milliseconds, then one JSON line. One process, no HTTP.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from knet.machine import processor
from service import artifact, rle
from service.image import decode
from service.instances import Instances
from service.segmenter import Segmenter
from service.segments import Segmentation
from service.session import available_cpus
from service.variants import choose_variant, open_session

ROOT = Path(__file__).resolve().parent.parent


def median_ms(step: Callable[[], Any], repeats: int) -> float:
    """Median time of one call, after one that is not counted."""
    step()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def encode(answer: Segmentation) -> list[str]:
    """COCO RLE of all segments; instances have theirs already."""
    return rle.encode(answer.id_map, [segment.id for segment in answer.segments])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=ROOT / "repository" / "nuclei" / "4", help="its folder")
    parser.add_argument("--images", type=Path, default=ROOT / "examples", help="folder of PNG and JPEG files")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=available_cpus())
    arguments = parser.parse_args()

    folder = arguments.artifact
    metadata = artifact.load(folder)
    segmenter = Segmenter(metadata, open_session(folder, choose_variant(metadata), threads=arguments.threads))
    table = Table("image", "size", "segments", "decode", "geometry + engine + join", "RLE", title=processor())
    results = []
    for path in sorted(path for path in arguments.images.iterdir() if path.suffix in (".png", ".jpg")):
        content = path.read_bytes()
        image = decode(content)
        answer = segmenter.segment(image)
        size = f"{image.shape[1]}x{image.shape[0]}"
        times = {
            "decode": median_ms(lambda content=content: decode(content), arguments.repeats),
            "segment": median_ms(lambda image=image: segmenter.segment(image), arguments.repeats),
            "rle": 0.0 if isinstance(answer, Instances) else median_ms(partial(encode, answer), arguments.repeats),
        }
        table.add_row(path.name, size, str(len(answer.segments)), *(f"{value:.1f}" for value in times.values()))
        results.append({"image": path.name, "size": size, "segments": len(answer.segments), **times})
    Console().print(table)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    summary = {"processor": processor(), "threads": arguments.threads, "peak_rss_mb": peak_mb, "medians_ms": results}
    Console(soft_wrap=True).print(json.dumps(summary), highlight=False)


if __name__ == "__main__":
    main()
