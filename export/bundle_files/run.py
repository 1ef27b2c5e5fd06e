"""Segment images with the model in this folder: `python run.py IMAGE ...`. README.md says what it writes."""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036  # edge devices may have older ones than the project
    sys.exit("run.py: Python 3.10 or newer is needed")
sys.path.insert(0, str(Path(__file__).resolve().parent))  # isolated mode leaves it out
try:
    from service import answers
    from service.artifact import ArtifactMetadata, load, verify_files
    from service.errors import ServiceError
    from service.image import decode
    from service.overlay import draw_overlay
    from service.pixels import png
    from service.segmenter import Segmenter
    from service.session import CPU_PROVIDER, OnnxSession, Provider, Session
except ModuleNotFoundError as missing:
    sys.exit(f"run.py: {missing.name} is not installed; README.md has the command that installs all")

BUNDLE = Path(__file__).resolve().parent
PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": CPU_PROVIDER}


def main() -> None:
    """Segment the images named on the command line; ends with 1 and one line where something is wrong."""
    parser = argparse.ArgumentParser(description="Segment images with the model in this folder.")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="JPEG, PNG, WebP, TIFF or BMP file")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for answers and pictures (default: out)")
    parser.add_argument("--score-threshold", type=float, help="least score of an object, 0..1 (default: the model's)")
    parser.add_argument("--provider", choices=PROVIDERS, help="of ONNX Runtime (default: cuda if there, else cpu)")
    given = parser.parse_args()
    try:
        run(given.images, given.out, score_threshold=given.score_threshold, provider=given.provider)
    except (ServiceError, OSError, ValueError) as error:
        sys.exit(f"run.py: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"run.py: {error.name} is not installed; README.md has the command that installs all")


def run(images: list[Path], out: Path, *, score_threshold: float | None, provider: str | None) -> None:
    """Write `out`/NAME.json and `out`/NAME.overlay.png for each image, and print a line for each.

    Raises:
        ServiceError: the bundle is damaged, an image cannot be read, or a value is not legal.
        ValueError: two images have the same name, or the provider is not there.
    """
    twice = [name for name, count in Counter(path.name for path in images).items() if count > 1]
    if twice:
        raise ValueError(f"several images are named {twice[0]}, and answers have the images' names: run them apart")
    metadata = load(BUNDLE)
    verify_files(BUNDLE, metadata)
    segmenter = Segmenter(metadata, open_session(metadata, provider))
    wish = answers.Wish(
        task=metadata.kind,
        format="rle",
        picture_only=False,
        class_indices=None,
        score_threshold=score_threshold,
        overlap_threshold=None,
    )
    out.mkdir(parents=True, exist_ok=True)
    for path in images:
        try:
            answer = segment(path, out, segmenter, wish)
        except ServiceError as error:
            raise ValueError(f"{path}: {error}") from error
        found = Counter(segment["category"] for segment in answer["segments"])
        parts = ", ".join(f"{count} {name}" for name, count in found.most_common()) or "nothing"
        print(f"{path}: {parts}; {answer['timing_ms']['total']:.0f} ms", *answer["warnings"], sep="\nwarning: ")  # noqa: T201


def segment(path: Path, out: Path, segmenter: Segmenter, wish: answers.Wish) -> dict[str, Any]:
    """The answer for one image, in the server's form; its files are written into `out`."""
    times = [time.perf_counter()]
    pixels = decode(path.read_bytes())
    times.append(time.perf_counter())
    result = segmenter.segment(pixels, score_threshold=wish.score_threshold)
    times.append(time.perf_counter())
    shown = answers.view(result, wish, segmenter.metadata)
    answer = answers.document(pixels, shown, wish, segmenter.metadata)
    times.append(time.perf_counter())
    steps = {name: times[i + 1] - times[i] for i, name in enumerate(("decode", "engine", "encode"))}
    steps["total"] = times[-1] - times[0]
    answer["timing_ms"] = {name: round(1000 * seconds, 2) for name, seconds in steps.items()}
    (out / f"{path.name}.json").write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    picture = draw_overlay(pixels, shown, segmenter.metadata, by_category=wish.task == "semantic")
    (out / f"{path.name}.overlay.png").write_bytes(png(picture))
    return answer


def open_session(metadata: ArtifactMetadata, provider: str | None) -> Session:
    """The graph in its runtime; raises ValueError where the provider asked for is not there."""
    variant = metadata.variants[0]
    if variant.runtime == "openvino":
        from service.openvino_session import OpenVinoSession

        if provider is not None:
            raise ValueError("--provider is for ONNX Runtime; this bundle's graph runs in OpenVINO, on the CPU")
        return OpenVinoSession(BUNDLE / variant.file, precision=variant.precision)
    import onnxruntime  # type: ignore[import-untyped]

    there = [name for name, full in PROVIDERS.items() if full in onnxruntime.get_available_providers()]
    chosen = provider or ("cuda" if "cuda" in there else "cpu")
    if chosen not in there:
        raise ValueError(f"this build of ONNX Runtime has no provider {chosen}; it has {', '.join(there)}")
    return OnnxSession(BUNDLE / variant.file, providers=_providers(chosen, metadata))


def _providers(chosen: str, metadata: ArtifactMetadata) -> list[Provider]:
    """The chosen one first, then those that take what it does not."""
    if chosen == "cpu":
        return [CPU_PROVIDER]
    from service.onnxruntime_providers import cuda_provider, tensorrt_provider

    precision: Any = metadata.variants[0].precision
    cuda = cuda_provider(precision=precision)
    if chosen == "cuda":
        return [cuda, CPU_PROVIDER]
    cache = BUNDLE / "engines"  # TensorRT takes minutes to build one
    cache.mkdir(exist_ok=True)
    return [tensorrt_provider(metadata, precision=precision, cache=cache), cuda, CPU_PROVIDER]


if __name__ == "__main__":
    main()
