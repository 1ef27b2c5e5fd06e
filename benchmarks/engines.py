"""K-Nets in every engine: latency, throughput, memory, size, start-up, as multiples of the floor.

    python -m benchmarks.engines --work FOLDER [--models NAME ...] [--engines NAME ...] [--repeats 9] [--threads 2]
        [--batch 8] [--artifact NAME=FOLDER ...] [--checkpoint NAME=FOLDER ...] [--images FOLDER] [--out FILE]

Needs the `dev` environment, and openvino for its lines. Each line is measured in a process of its own:

- start-up: from its start to the first answer, imports, loading and compiling included;
- latency: median of one image, scaled to the canvas beforehand, through the graph: normalisation, network, merge;
- throughput: images a second in batches;
- peak: of the whole process (VmHWM), after single images and after batches.

The models of the repository are run as they are there. Their PyTorch lines have random weights of the same network,
unless a checkpoint is named, which costs the same time. The panoptic R50 is the paper's with random weights, made in
the work folder (with a checkpoint beside the artifact, from which one with more variants may be exported: --artifact).
Prints a table, then one JSON line.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.floor import count_gflop, measure_peaks
from benchmarks.harness import (
    ENGINES,
    Engine,
    Figures,
    Settings,
    add_floor,
    add_options,
    file_mb,
    load_images,
    measure,
    open_graph,
    prepare_torch,
    print_results,
    settings_of,
    time_session,
)
from service import artifact
from service.artifact import ArtifactMetadata

if TYPE_CHECKING:  # torch costs start-up time and memory that are not the other engines'
    from model.config import KNetConfig
    from model.knet import KNet

ROOT = Path(__file__).resolve().parent.parent
GRAPH, INT8_GRAPH = "model.onnx", "model.int8.onnx"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is measured."""

    name: str
    canvas: tuple[int, int]  # height and width
    folder: str | None = None  # in the repository; None: the panoptic R50 that is made here


MODELS = {
    model.name: model
    for model in (
        Model(name="r50-512", canvas=(512, 512)),
        Model(name="r50-800x1216", canvas=(800, 1216)),
        Model(name="nuclei", canvas=(512, 512), folder="nuclei/4"),
        Model(name="cropweed", canvas=(736, 960), folder="cropweed/2"),
    )
}


def make_r50(started: float, folder: Path) -> Iterator[Figures]:
    """The artifact of the paper's panoptic K-Net with random weights, a checkpoint beside it."""
    import onnx
    import torch

    from export.fold import fold_batch_norms
    from export.to_onnx import make_graph
    from model.checkpoint import save
    from model.knet import KNet
    from model.official import R50, coco
    from model.served import make_served
    from service.artifact import Variant, file_sha256
    from training.serving_path import metadata_of

    torch.manual_seed(0)
    network = KNet(coco("panoptic", R50)).eval()
    save(network, folder / "checkpoint")
    fold_batch_norms(network)
    onnx.save(make_graph(make_served(network)), folder / GRAPH)
    variant = Variant(runtime="onnxruntime", precision="fp32", file=GRAPH, sha256=file_sha256(folder / GRAPH))
    metadata = metadata_of(network.config, name="r50", version="1")
    artifact.save(metadata.model_copy(update={"variants": (variant,)}), folder)
    yield {"made": str(folder)}


def ensure_r50(work: Path) -> Path:
    """Its folder; made on the first use."""
    folder = work / "r50"
    if not (folder / artifact.FILE_NAME).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(make_r50, folder)
        if "error" in figures:
            raise SystemExit(f"the panoptic R50 cannot be made: {figures['error']}")
    return folder


def find_config(model: Model, metadata: ArtifactMetadata) -> "KNetConfig":
    """The network's configuration: the paper's, or what its recipe gives for the artifact's categories."""
    from model.config import Category, knet_nuclei
    from model.official import R50, coco
    from training.recipes import DataFacts, small_semantic

    if model.folder is None:
        return coco("panoptic", R50)
    categories = tuple(
        Category(id=c.id, name=c.name, is_thing=c.is_thing, colour=c.colour) for c in metadata.categories
    )
    if metadata.kind == "panoptic":
        return knet_nuclei(categories)
    facts = DataFacts(kind="semantic", categories=categories, num_images=1, image_size=metadata.geometry.edges[:2])
    return small_semantic(facts).model


def make_network(model: Model, metadata: ArtifactMetadata, checkpoint: Path | None) -> "KNet":
    """The network in PyTorch."""
    from model.checkpoint import load
    from model.knet import KNet

    return KNet(find_config(model, metadata)).eval() if checkpoint is None else load(checkpoint)


def count(started: float, model: Model, metadata: ArtifactMetadata) -> Iterator[Figures]:
    """Operations of the network at the model's canvas."""
    from model.knet import KNet

    yield {"gflop": count_gflop(lambda: KNet(find_config(model, metadata)), 1, 3, *model.canvas)}


def graph_inputs(metadata: ArtifactMetadata, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Inputs of the graph for canvases (B, H, W, 3) that are full."""
    from service.segmenter import find_thresholds, image_statistics

    inputs: dict[str, NDArray[Any]] = {
        "image": images,
        "valid_size": np.array([images.shape[1:3]] * len(images), np.int32),
    }
    thresholds = find_thresholds(metadata, score_threshold=None, overlap_threshold=None)
    inputs |= {name: np.full(len(images), value, np.float32) for name, value in thresholds.items()}
    if metadata.uses_image_statistics:
        statistics = [image_statistics(image) for image in images]
        inputs |= {name: np.array([each[name] for each in statistics], np.float32) for name in statistics[0]}
    return inputs


def run_torch(
    started: float,
    engine: Engine,
    model: Model,
    metadata: ArtifactMetadata,
    checkpoint: Path | None,
    images: NDArray[np.uint8],
    settings: Settings,
) -> Iterator[Figures]:
    """Figures of a network in PyTorch, behind the interface of the engines that serve."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare_torch(settings.threads, Path(scratch))
        import torch

        from training.serving_path import TorchSession

        session = TorchSession(make_network(model, metadata, checkpoint))
        if engine.compiled:
            session.model = torch.compile(session.model, dynamic=False)
        one, many = graph_inputs(metadata, images[:1]), graph_inputs(metadata, images)
        yield from time_session(started, session, one, many, settings)


def run_graph(
    started: float,
    engine: Engine,
    path: Path,
    metadata: ArtifactMetadata,
    images: NDArray[np.uint8],
    settings: Settings,
) -> Iterator[Figures]:
    """Figures of a graph in one of the engines that serve."""
    session = open_graph(engine, path, settings.threads)
    one, many = graph_inputs(metadata, images[:1]), graph_inputs(metadata, images)
    yield from time_session(started, session, one, many, settings)


def find_graph(engine: Engine, folder: Path, metadata: ArtifactMetadata) -> Path | None:
    """The file that an engine runs: the variant's, or what an artifact has under the usual name."""
    for variant in metadata.variants:
        if (variant.runtime, variant.precision) == (engine.runtime, engine.precision):
            return folder / variant.file
    path = folder / (INT8_GRAPH if engine.precision == "int8" else GRAPH)
    return path if path.is_file() else None


def measure_line(
    engine: Engine, model: Model, folder: Path, checkpoint: Path | None, images: NDArray[np.uint8], settings: Settings
) -> Figures:
    """One line of the table."""
    metadata = artifact.load(folder)
    if engine.runtime == "torch":
        figures = measure(run_torch, engine, model, metadata, checkpoint, images, settings)
        if model.folder is None:
            checkpoint = folder / "checkpoint"
        if checkpoint is not None and (weights := checkpoint / "model.safetensors").is_file():
            figures["file_mb"] = file_mb(weights)
        return figures
    path = find_graph(engine, folder, metadata)
    if path is None:
        return {"error": f"skipped: the artifact has no graph in {engine.precision}"}
    return measure(run_graph, engine, path, metadata, images, settings) | {"file_mb": file_mb(path)}


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or name not in MODELS:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FOLDER with one of {', '.join(MODELS)}")
    return name, Path(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--artifact", type=_named_folder, action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--checkpoint", type=_named_folder, action="append", default=[], help="NAME=FOLDER")
    add_options(parser)
    arguments = parser.parse_args()

    settings, work = settings_of(arguments), arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folders = dict(arguments.artifact)
    for name in arguments.models:
        if name not in folders:
            inside = MODELS[name].folder
            folders[name] = ensure_r50(work) if inside is None else ROOT / "repository" / inside
    peaks = measure_peaks(arguments.engines, work, settings)
    results = []
    for name in arguments.models:
        model = MODELS[name]
        images = load_images(arguments.images, model.canvas, settings.batch)
        gflop = measure(count, model, artifact.load(folders[name])).get("gflop")
        for engine_name in arguments.engines:
            checkpoint = dict(arguments.checkpoint).get(name)
            figures = measure_line(ENGINES[engine_name], model, folders[name], checkpoint, images, settings)
            add_floor(figures, gflop, peaks.get(engine_name), settings.batch)
            results.append({"network": name, "engine": engine_name, "gflop": gflop, **figures})
            print(results[-1], flush=True)
    print_results(results, peaks, settings, arguments.out)


if __name__ == "__main__":
    main()
