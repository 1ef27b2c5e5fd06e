"""`knet export`: from what is typed to an artifact, or to the command lines of NVIDIA's tools."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from export.artifact import export_artifact, images_below
from export.options import Deformable, ExportOptions, Format, Precision
from export.tensorrt_plan import EngineOptions
from export.tensorrt_plan import dry_run as command_lines
from export.triton import write_config
from service.artifact import ArtifactMetadata
from training.data.index import DataIndex, evenly_spaced
from training.data.open import find_data

FormatOption = Literal[Format, "triton"]  # Triton is no engine: it runs the graph of `onnx`


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The options of the command; `export.options` says what most of them mean."""

    formats: tuple[str, ...] = ()  # none: onnx and openvino
    precisions: tuple[str, ...] = ()  # none: those of the formats that lose next to nothing
    images: Path = Path("examples")
    data: Path | None = None
    description: Path | None = None
    max_images: int | None = None  # of the validation images
    force: bool = False
    canvas: str | None = None  # HEIGHTxWIDTH, or sides of tiles
    fixed_size: bool = False
    half_storage: bool = False
    confidence: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    deformable: Deformable = "operator"
    workspace_gb: float = 4.0
    hardware_compatible: bool = False
    timing_cache: Path | None = None
    dry_run: bool = False
    data_name: str | None = None
    licence: str | None = None


def export(checkpoint: Path, out: Path, wishes: Wishes) -> None:
    """Write the artifact of a checkpoint. Raises ValueError and ExportError as `export_artifact` does."""
    options = make_options(wishes)
    if wishes.dry_run and "tensorrt" not in options.formats:
        raise ValueError("--dry-run is for --format tensorrt")
    built = options
    if wishes.dry_run:
        others: tuple[Format, ...] = tuple(name for name in options.formats if name != "tensorrt") or ("onnx",)
        kept = tuple(p for p in options.precisions if p in ("fp32", "int8") or (p == "bf16" and "openvino" in others))
        built = replace(options, formats=others, precisions=kept or ("fp32",))
    console = Console(markup=False)
    given = {"data": wishes.data_name, "licence": wishes.licence, "checkpoint": checkpoint.name}
    metadata = export_artifact(
        checkpoint,
        out,
        images_below(wishes.images),
        provenance={name: value for name, value in given.items() if value is not None},
        console=console,
        options=built,
        changes={**wishes.changes, **_canvas_changes(wishes.canvas)},
        data=_open(wishes),
    )
    written = [out] + ([write_config(out, metadata)] if "triton" in wishes.formats else [])
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
    if wishes.dry_run:
        _print_command_lines(out, metadata, options, console)


def make_options(wishes: Wishes) -> ExportOptions:
    """What is asked for, and the defaults for the rest. Raises ValueError for what does not fit together."""
    asked = [_checked("--format", name, FormatOption) for name in wishes.formats]
    formats = tuple(name for name in asked if name != "triton") or (("onnx",) if asked else ("onnx", "openvino"))
    precisions = tuple(_checked("--precision", name, Precision) for name in wishes.precisions)
    if not precisions:
        fitting: dict[Precision, bool] = {"fp32": True, "bf16": "openvino" in formats, "fp16": "tensorrt" in formats}
        precisions = tuple(name for name, fits in fitting.items() if fits)
    return ExportOptions(
        formats=formats,
        precisions=precisions,
        signed_int8="tensorrt" in formats,
        deformable=wishes.deformable,
        fixed_size=wishes.fixed_size,
        half_storage=wishes.half_storage,
        confidence=wishes.confidence,
        force=wishes.force,
        engine=EngineOptions(
            workspace_gb=wishes.workspace_gb,
            hardware_compatible=wishes.hardware_compatible,
            timing_cache=wishes.timing_cache,
        ),
    )


def _checked(option: str, value: str, legal: Any) -> Any:
    """The value, if the Literal has it."""
    if value not in get_args(legal):
        raise ValueError(f"{option} is {value!r}; legal: {', '.join(get_args(legal))}")
    return value


def _open(wishes: Wishes) -> tuple[DataIndex, DataIndex] | None:
    """Training and validation images, of which no more than wished."""
    if wishes.data is None:
        return None
    found = find_data(wishes.data, wishes.description)
    train, val = found.read("train"), found.read("val")
    return train, replace(val, records=evenly_spaced(val.records, wishes.max_images))


def _canvas_changes(text: str | None) -> dict[str, Any]:
    """Fields of the network's config for `--canvas`."""
    if text is None:
        return {}
    if sides := re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text):
        return {"geometry": "fit", "canvas_sizes": (int(sides[1]), int(sides[2])), "tile_overlap": 0}
    if re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", text):
        return {"geometry": "tile", "canvas_sizes": tuple(sorted({int(side) for side in text.split(",")}))}
    raise ValueError(f"--canvas is {text!r}; legal: HEIGHTxWIDTH, such as 800x1216, or sides of tiles, such as 256,384")


def _print_command_lines(out: Path, metadata: ArtifactMetadata, options: ExportOptions, console: Console) -> None:
    for format_, precision in options.variants:
        if format_ == "tensorrt":
            engine = replace(options.engine, precision=precision)  # type: ignore[arg-type]  # fp32, fp16 or int8
            for line in command_lines(out, metadata, engine):
                console.print(line, soft_wrap=True, highlight=False, markup=False)
