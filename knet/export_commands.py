"""Commands around artifacts: export, bundle, import. Heavy imports are inside the command that needs them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from knet.completion import complete_variant
from knet.explained import explained
from knet.options import Description

EXPORT_EPILOG = """
Examples:

knet export runs/field --out repository/field/1 --images photos

knet export runs/field --out repository/field/2 --data field --precision fp32 --precision bf16 --precision int8

knet export runs/coco --out repository/coco/1 --images photos --merge confident --canvas 800x1216
"""

BUNDLE_EPILOG = """
Examples:

knet bundle repository/nuclei/4 --target arm64

knet bundle repository/nuclei/4 --target intel --variant openvino-int8 --out nuclei.tar.gz

knet bundle repository/cropweed/2 --target browser --onnxruntime-web node_modules/onnxruntime-web
"""

IMPORT_EPILOG = """
Examples:

knet import knet_s3_r50_fpn_ms-3x_coco-panoptic_20211017_054613-4375b8be.pth --out runs/coco

knet import swin.pth --out runs/ade --config knet_s3_upernet_swin-l_80k_adamw_640x640_ade20k
"""

Target = Literal["jetson", "arm64", "intel", "browser"]

# Options of `export`.
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="Engine to make variants for: onnx, openvino, tensorrt; may be given several times. "
        "Default: onnx and openvino. triton: also NAME/config.pbtxt, with which Triton serves the repository.",
    ),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        help="Precision of the variants: fp32, bf16 (openvino), fp16 (onnx, tensorrt), int8; may be given several "
        "times. Default: fp32, with openvino also bf16, with tensorrt also fp16."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        help="Annotated data of the model: int8 is calibrated on its training images, and lower precisions are judged "
        "by what they lose on its validation images.",
    ),
]
Images = Annotated[Path, typer.Option(exists=True, help="Real images, a file or a folder, to compare with PyTorch on.")]
MaxImages = Annotated[int | None, typer.Option(min=1, help="At most so many validation images.")]
Force = Annotated[
    bool, typer.Option("--force", help="Write variants outside their limits too, marked in artifact.json.")
]
Canvas = Annotated[
    str | None,
    typer.Option(
        help="HEIGHTxWIDTH that every image is fitted to, such as 800x1216; or sides of tiles, such as 256,384."
    ),
]
FixedSize = Annotated[
    bool, typer.Option("--fixed-size", help="Make the canvas' height and width constants of the graph.")
]
HalfStorage = Annotated[
    bool, typer.Option("--half-storage", help="Round weights to fp16 on disk: half the size of model.onnx.")
]
MergeRule = Annotated[
    Literal["official", "confident"] | None,
    typer.Option(help="Every kernel competes for a pixel (official), or only those above the score threshold."),
]
MergeAt = Annotated[
    Literal["pixels", "cells"] | None,
    typer.Option(help="Kernels compete at every pixel (exact), or in the cells of the feature map (faster)."),
]
MaskQuality = Annotated[
    bool | None,
    typer.Option("--mask-quality/--no-mask-quality", help="Multiply scores by the mean probability inside the mask."),
]
Confidence = Annotated[
    bool, typer.Option("--confidence", help="Semantic models: an output with the probability of each pixel's class.")
]
Deformable = Annotated[
    Literal["operator", "grid_sample"],
    typer.Option(help="Deformable convolutions as the ONNX operator, or by sampling, for engines without it."),
]
HardwareCompatible = Annotated[
    bool, typer.Option("--hardware-compatible", help="TensorRT: an engine for all GPUs from Ampere on; slower.")
]
TimingCache = Annotated[
    Path | None, typer.Option(dir_okay=False, help="TensorRT: file of measured kernels, read and added to.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="TensorRT: build no engine, print the command lines of NVIDIA's tools that build it."
    ),
]


def export(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a checkpoint.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="REPOSITORY/NAME/VERSION; must not exist.")],
    format_: Formats = None,
    precision: Precisions = None,
    images: Images = Path("examples"),
    data: Data = None,
    description: Description = None,
    max_images: MaxImages = None,
    force: Force = False,
    canvas: Canvas = None,
    fixed_size: FixedSize = False,
    half_storage: HalfStorage = False,
    merge: MergeRule = None,
    merge_at: MergeAt = None,
    mask_quality: MaskQuality = None,
    confidence: Confidence = False,
    deformable: Deformable = "operator",
    workspace_gb: Annotated[float, typer.Option(help="TensorRT: most memory for any one layer.")] = 4.0,
    hardware_compatible: HardwareCompatible = False,
    timing_cache: TimingCache = None,
    dry_run: DryRun = False,
    data_name: Annotated[str | None, typer.Option(help="What it was trained on, for artifact.json.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for artifact.json.")] = None,
) -> None:
    """Make an artifact that servers run: ONNX graphs with everything inside, each variant compared with PyTorch.

    A variant that differs by more than its precision may is not written: fp32 must agree on pixels and scores, bf16
    and fp16 may lose 0.3 points of PQ (mask AP, mIoU), int8 1.0. docs/export.md has the details.
    """
    with explained("export"):
        from export.command import Wishes, export

        export(
            checkpoint,
            out,
            Wishes(
                formats=tuple(format_ or ()),
                precisions=tuple(precision or ()),
                images=images,
                data=data,
                description=description,
                max_images=max_images,
                force=force,
                canvas=canvas,
                fixed_size=fixed_size,
                half_storage=half_storage,
                confidence=confidence,
                changes={"merge": merge, "merge_at": merge_at, "mask_quality": mask_quality},
                deformable=deformable,
                workspace_gb=workspace_gb,
                hardware_compatible=hardware_compatible,
                timing_cache=timing_cache,
                dry_run=dry_run,
                data_name=data_name,
                licence=licence,
            ),
        )


def bundle(
    artifact: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="REPOSITORY/NAME/VERSION.")],
    target: Annotated[Target, typer.Option(help="The kind of device.")],
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="The archive: .zip for browser, else .tar.gz; must not exist. Default: NAME-VERSION-TARGET, here.",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_variant,
            help="The artifact's variant, such as onnxruntime-int8. Default: the target's best.",
        ),
    ] = None,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Unpacked npm package onnxruntime-web, of which browser takes files."
        ),
    ] = None,
) -> None:
    """Make an archive that segments images on a device: the graph, a runner that needs few packages, a README.

    The runner needs numpy, Pillow and the runtime: ONNX Runtime, or OpenVINO on Intel. For browsers it is a page.
    """
    with explained("export"):
        from rich.console import Console

        from export.bundle import make_bundle

        make_bundle(
            artifact, target, out, variant=variant, onnxruntime_web=onnxruntime_web, console=Console(markup=False)
        )


def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help=".pth file of the official K-Net code.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the new checkpoint; must not exist, or be empty.")
    ],
    config: Annotated[
        str | None, typer.Option(help="Name of its configuration, where several have the same tensors.")
    ] = None,
) -> None:
    """Make a checkpoint of an official one, of mmdetection or mmsegmentation, that computes the same.

    The configuration is recognised from the names and shapes of the tensors, which must all fit. The file cannot run
    code: tensors, numbers and text are all that is read. docs/official_checkpoints.md lists the published files.
    """
    with explained("export"):
        from export.official import import_official

        imported = import_official(file, out, config)
        if imported.warning is not None:
            typer.secho(f"Warning: {imported.warning}", fg=typer.colors.YELLOW, err=True)
        found = imported.recognised
        others = [name for name in found.fitting if name != found.name]
        typer.echo(f"{found.name} ({found.chosen_by})" + (f"; also fits: {', '.join(others)}" if others else ""))
        for reason in dict.fromkeys(found.unused.values()):
            names = [name for name, why in found.unused.items() if why == reason]
            typer.echo(f"not used: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} ({reason})")
        typer.echo(f"wrote {out}")
