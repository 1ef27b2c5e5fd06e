"""Checkpoint -> artifact: the graph, its check against PyTorch, and the metadata. All of it appears, or nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from export.deformable import sample_deformable
from export.errors import ExportError
from export.fold import fold_batch_norms
from export.new_folder import new_folder
from export.official import IMPORTED
from export.to_onnx import check_canvas, export_onnx, round_weights
from export.verify import MAX_PIXEL_DIFFERENCE, MAX_SCORE_DIFFERENCE, SCORE_TOLERANCE, Comparison, compare
from model.checkpoint import load
from model.knet import KNet
from model.served import make_served
from service.artifact import ArtifactMetadata, Variant, file_sha256, save
from service.image import decode
from service.segmenter import Segmenter
from service.session import OnnxSession
from training.checkpoints import METRICS
from training.serving_path import metadata_of, segmenter_of

GRAPH = "model.onnx"
Deformable = Literal["operator", "grid_sample"]
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def export_artifact(
    folder: Path,
    out: Path,
    images: Sequence[Path],
    *,
    provenance: dict[str, Any],
    console: Console,
    deformable: Deformable = "operator",
    changes: Mapping[str, Any] | None = None,
) -> ArtifactMetadata:
    """Write the artifact of a checkpoint.

    Args:
        folder: the checkpoint.
        out: MODEL_REPOSITORY/NAME/VERSION; must not exist.
        images: real images to compare ONNX Runtime and PyTorch on.
        provenance: where the model is from (command, data, licence), for `artifact.json`.
        deformable: deformable convolutions as the ONNX operator (opset 19), or "grid_sample": as GridSample and
            matrix products (opset 18), for engines without the operator.
        changes: fields of the network's config that decide how it is served (merge, geometry, thresholds); None leaves
            a field as it is.

    Raises:
        ValueError: the checkpoint, an image or the name of `out` is no good.
        ExportError: the graph is not fit for engines, or does not answer as PyTorch does.
    """
    name, version = out.resolve().parent.name, out.name
    if out.exists():
        raise ValueError(f"{out} exists; versions are never overwritten: export to {out.parent / _next(out.parent)}")
    if not version.isdecimal():
        raise ValueError(f"the last part of {out} is the version and must be a number: REPOSITORY/NAME/1")
    if not images:
        raise ValueError("no images to verify with; name a file or folder of real ones with --images")
    network = _load_to_serve(folder, changes or {}, deformable)
    metadata = metadata_of(network.config, name=name, version=version)
    metadata = metadata.model_copy(update={"provenance": provenance | _origin(folder)})
    with new_folder(out) as work:
        metadata = _write(network, metadata, work, images, console)
    return metadata


def _load_to_serve(folder: Path, changes: Mapping[str, Any], deformable: Deformable) -> KNet:
    """The checkpoint's network as the graph will hold it."""
    network = load(folder)
    network.config = replace(network.config, **{name: value for name, value in changes.items() if value is not None})
    check_canvas(network.config)
    fold_batch_norms(network)
    round_weights(network)
    if deformable == "grid_sample":
        sample_deformable(network)
    return network


def _write(
    network: KNet, metadata: ArtifactMetadata, folder: Path, images: Sequence[Path], console: Console
) -> ArtifactMetadata:
    """Graph and metadata into `folder`; raises ExportError when the graph does not answer as the network does."""
    with console.status("writing the ONNX graph (about a minute)"):
        graph = export_onnx(make_served(network), folder / GRAPH)
    with console.status(f"comparing ONNX Runtime with PyTorch on {len(images)} images"):
        candidate = Segmenter(metadata, OnnxSession(folder / GRAPH))
        comparison = compare(segmenter_of(network), candidate, map(_read, images))
    _require(comparison)
    if not comparison.segments:
        console.print(
            "Warning: none of the images gave a segment, so that little was compared; "
            "name images that show what the model knows (--images)",
            style="yellow",
        )
    opset = {"opset": graph.opset_import[0].version}
    metadata = metadata.model_copy(
        update={"variants": (_variant(folder, comparison),), "provenance": metadata.provenance | opset}
    )
    save(metadata, folder)
    return metadata


def images_below(path: Path) -> list[Path]:
    """The image files of a folder, by name; or the file itself."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*") if file.suffix.lower() in IMAGE_ENDINGS)


def _read(path: Path) -> NDArray[np.uint8]:
    return decode(path.read_bytes())


def _require(comparison: Comparison) -> None:
    if not comparison.accepted:
        raise ExportError(
            "ONNX Runtime does not answer as PyTorch does: "
            f"{comparison.pixel_difference:.3%} of the pixels differ (at most {MAX_PIXEL_DIFFERENCE:.1%}), "
            f"{comparison.score_difference:.3%} of the segments differ in score by more than {SCORE_TOLERANCE} "
            f"(at most {MAX_SCORE_DIFFERENCE:.1%}), over {comparison.images} images"
        )


def _variant(folder: Path, comparison: Comparison) -> Variant:
    accuracy = {name: float(value) for name, value in asdict(comparison).items()}
    return Variant(
        runtime="onnxruntime",
        precision="fp32",
        file=GRAPH,
        sha256=file_sha256(folder / GRAPH),
        accuracy=accuracy
        | {"pixel_difference": comparison.pixel_difference, "score_difference": comparison.score_difference},
    )


def _origin(folder: Path) -> dict[str, Any]:
    """What lies beside the checkpoint: the validation scores of its training, or the file it was imported from."""
    found = {"weights": "rounded to fp16, computed in fp32"}
    for key, name in (("validation", METRICS), ("imported", IMPORTED)):
        path = folder / name
        if path.is_file():
            found[key] = json.loads(path.read_text())
    return found


def _next(model: Path) -> str:
    versions = [int(child.name) for child in model.iterdir() if child.name.isdecimal()]
    return str(max(versions, default=0) + 1)
