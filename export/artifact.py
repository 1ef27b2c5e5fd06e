"""Checkpoint -> artifact: the graph, its check against PyTorch, and the metadata. All of it appears, or nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from export.deformable import sample_deformable
from export.fold import fold_batch_norms
from export.new_folder import new_folder
from export.official import IMPORTED
from export.options import ExportOptions
from export.to_onnx import check_canvas, make_graph, round_weights
from export.variants import Evidence, VariantMaker, gather_evidence
from model.checkpoint import load
from model.knet import KNet
from model.served import ServedModel, make_served
from service.artifact import ArtifactMetadata, save
from service.image import decode
from service.segmenter import Segmenter
from training.checkpoints import METRICS
from training.data.index import DataIndex, evenly_spaced
from training.serving_path import metadata_of, segmenter_of

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_MAX_CALIBRATION_IMAGES = 64


def export_artifact(
    folder: Path,
    out: Path,
    images: Sequence[Path],
    *,
    provenance: dict[str, Any],
    console: Console,
    options: ExportOptions | None = None,
    changes: Mapping[str, Any] | None = None,
    data: tuple[DataIndex, DataIndex] | None = None,
) -> ArtifactMetadata:
    """Write the artifact of a checkpoint.

    Args:
        folder: the checkpoint.
        out: MODEL_REPOSITORY/NAME/VERSION; must not exist.
        images: real images to compare the variants and PyTorch on.
        provenance: where the model is from (command, data, licence), for `artifact.json`.
        options: the variants and how they are made; None: those that are for every CPU.
        changes: fields of the network's config that decide how it is served (merge, geometry, thresholds); None leaves
            a field as it is.
        data: training images, which int8 is calibrated on, and annotated validation images, on which PQ, mask AP or
            mIoU of each variant is compared with PyTorch's. None: int8 is calibrated on `images`, and the variants in
            lower precisions are reported, not judged.

    Raises:
        ValueError: the checkpoint, an image or the name of `out` is no good.
        ExportError: the graph is not fit for engines, or does not answer as PyTorch does.
    """
    options = options or ExportOptions()
    name, version = out.resolve().parent.name, out.name
    if out.exists():
        raise ValueError(f"{out} exists; versions are never overwritten: export to {out.parent / _next(out.parent)}")
    if not version.isdecimal():
        raise ValueError(f"the last part of {out} is the version and must be a number: REPOSITORY/NAME/1")
    if not images:
        raise ValueError("no images to verify with; name a file or folder of real ones with --images")
    network = _load_to_serve(folder, changes or {}, options)
    served = make_served(network, confidence=options.confidence)
    metadata = metadata_of(network.config, name=name, version=version, confidence=options.confidence)
    origin = {} if not options.half_storage else {"weights": "rounded to fp16, computed in fp32"}
    metadata = metadata.model_copy(update={"provenance": provenance | origin | _origin(folder)})
    with new_folder(out) as work:
        metadata = _write(served, metadata, work, options, (images, data), console)
    return metadata


def _load_to_serve(folder: Path, changes: Mapping[str, Any], options: ExportOptions) -> KNet:
    """The checkpoint's network as the graph will hold it."""
    network = load(folder)
    network.config = replace(network.config, **{name: value for name, value in changes.items() if value is not None})
    check_canvas(network.config)
    fold_batch_norms(network)
    if options.half_storage:
        round_weights(network)
    if options.deformable == "grid_sample":
        sample_deformable(network)
    return network


def _write(
    served: ServedModel,
    metadata: ArtifactMetadata,
    folder: Path,
    options: ExportOptions,
    material: tuple[Sequence[Path], tuple[DataIndex, DataIndex] | None],
    console: Console,
) -> ArtifactMetadata:
    """Variants and metadata into `folder`."""
    with console.status("writing the ONNX graph (about a minute)"):
        graph = make_graph(served, fixed_size=options.fixed_size)
    with console.status("running PyTorch on the images"):
        evidence = _gather(segmenter_of(served.network, confidence=metadata.confidence), *material)
    maker = VariantMaker(
        graph=graph, metadata=metadata, folder=folder, options=options, evidence=evidence, console=console
    )
    variants = maker.make_all()
    if not any(answer.segments for answer in evidence.answers):
        console.print(
            "Warning: none of the images gave a segment, so that little was compared; "
            "name images that show what the model knows (--images)",
            style="yellow",
        )
    opset = {"opset": graph.opset_import[0].version}
    metadata = metadata.model_copy(update={"variants": variants, "provenance": metadata.provenance | opset})
    save(metadata, folder)
    return metadata


def _gather(reference: Segmenter, images: Sequence[Path], data: tuple[DataIndex, DataIndex] | None) -> Evidence:
    calibration, validation = images, None
    if data is not None:
        train, validation = data
        calibration = [record.image_path for record in evenly_spaced(train.records, _MAX_CALIBRATION_IMAGES)]
    compared = [_read(path) for path in images]
    return gather_evidence(reference, compared, calibration, validation)


def images_below(path: Path) -> list[Path]:
    """The image files of a folder, by name; or the file itself."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*") if file.suffix.lower() in IMAGE_ENDINGS)


def _read(path: Path) -> NDArray[np.uint8]:
    return decode(path.read_bytes())


def _origin(folder: Path) -> dict[str, Any]:
    """What lies beside the checkpoint: the validation scores of its training, or the file it was imported from."""
    found = {}
    for key, name in (("validation", METRICS), ("imported", IMPORTED)):
        path = folder / name
        if path.is_file():
            found[key] = json.loads(path.read_text())
    return found


def _next(model: Path) -> str:
    versions = [int(child.name) for child in model.iterdir() if child.name.isdecimal()]
    return str(max(versions, default=0) + 1)
