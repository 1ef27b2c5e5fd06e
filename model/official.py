"""The configurations that K-Net was published in, each a function: the authors' 16, and 4 of mmsegmentation.

docs/official_checkpoints.md has their numbers.
"""

from collections.abc import Callable

from model.ade20k import ade20k
from model.coco import coco_instance, coco_panoptic
from model.config import BackboneConfig, Kind, KNetConfig, Neck

R50 = BackboneConfig(name="resnet50", frozen_level=1)
R101 = BackboneConfig(name="resnet101", frozen_level=1)
R101_DCN = BackboneConfig(name="resnet101", frozen_level=1, deformable_levels=(2, 3, 4))
SWIN_T = BackboneConfig(name="swin_tiny_patch4_window7_224", drop_path=0.3)
SWIN_L = BackboneConfig(name="swin_large_patch4_window7_224", drop_path=0.3)
# Three 3x3 convolutions in the stem.
R50_V1C = BackboneConfig(name="resnet50c")
R50_V1C_DILATED = BackboneConfig(name="resnet50c", max_stride=8)


def coco(kind: Kind, backbone: BackboneConfig) -> KNetConfig:
    """K-Net on COCO: 100 instance kernels and, panoptic, 53 semantic ones (section 4.1)."""
    return KNetConfig(
        kind=kind,
        categories=coco_panoptic() if kind == "panoptic" else coco_instance(),
        backbone=backbone,
        padding_in_masks=True,
        geometry="shortest_edge",
        canvas_sizes=(800, 1333),
        output_stride=1 if kind == "panoptic" else 8,
    )


def ade20k_semantic(
    neck: Neck, backbone: BackboneConfig, *, channels: int = 512, shorter_side: int = 512
) -> KNetConfig:
    """K-Net on ADE20K: 150 semantic kernels on a known decode head (section 4.2).

    Args:
        channels: of a kernel; the authors' UPerNets have 256, mmsegmentation's 512.
        shorter_side: of an image in testing, in pixels; the longer one is at most 2048.
    """
    return KNetConfig(
        kind="semantic",
        categories=ade20k(),
        backbone=backbone,
        neck=neck,
        channels=channels,
        feature_stride=4 if neck == "uper" else 8,
        mask_upsample=1,
        norm="batch",
        dropout=0.1,
        auxiliary=True,
        num_kernels=0,
        num_training_kernels=0,
        update_channels=256,
        geometry="shortest_edge",
        canvas_sizes=(shorter_side, 2048),
        output_stride=1,
    )


OFFICIAL: dict[str, Callable[[], KNetConfig]] = {
    "knet_s3_r50_fpn_1x_coco": lambda: coco("instance", R50),
    "knet_s3_r50_fpn_ms-3x_coco": lambda: coco("instance", R50),
    "knet_s3_r101_fpn_ms-3x_coco": lambda: coco("instance", R101),
    "knet_s3_r101_dcn-c3-c5_fpn_ms-3x_coco": lambda: coco("instance", R101_DCN),
    "knet_s3_r50_fpn_1x_coco-panoptic": lambda: coco("panoptic", R50),
    "knet_s3_r50_fpn_ms-3x_coco-panoptic": lambda: coco("panoptic", R50),
    "knet_s3_r101_fpn_ms-3x_coco-panoptic": lambda: coco("panoptic", R101),
    "knet_s3_r101_dcn-c3-c5_fpn_ms-3x_coco-panoptic": lambda: coco("panoptic", R101_DCN),
    "knet_s3_swin-l_fpn_ms-3x_16x2_coco-panoptic": lambda: coco("panoptic", SWIN_L),
    "knet_s3_fcn_r50-d8_80k_adamw_ade20k": lambda: ade20k_semantic("fcn", R50_V1C_DILATED),
    "knet_s3_pspnet_r50-d8_80k_adamw_ade20k": lambda: ade20k_semantic("psp", R50_V1C_DILATED),
    "knet_s3_deeplabv3_r50-d8_80k_adamw_ade20k": lambda: ade20k_semantic("aspp", R50_V1C_DILATED),
    "knet_s3_upernet_r50-d8_80k_adamw_ade20k": lambda: ade20k_semantic("uper", R50_V1C, channels=256),
    "knet_s3_upernet_swin-t_80k_adamw_ade20k": lambda: ade20k_semantic("uper", SWIN_T, channels=256),
    "knet_s3_upernet_swin-l_80k_adamw_ade20k": lambda: ade20k_semantic("uper", SWIN_L, channels=256),
    "knet_s3_upernet_swin-l_80k_adamw_640x640_ade20k": lambda: ade20k_semantic(
        "uper", SWIN_L, channels=256, shorter_side=640
    ),
    # mmsegmentation's own: the only ADE20K files that were published. Its other three are those of the authors.
    "knet_s3_upernet_r50-d8_8x2_512x512_adamw_80k_ade20k": lambda: ade20k_semantic("uper", R50_V1C),
    "knet_s3_upernet_swin-t_8x2_512x512_adamw_80k_ade20k": lambda: ade20k_semantic("uper", SWIN_T),
    "knet_s3_upernet_swin-l_8x2_512x512_adamw_80k_ade20k": lambda: ade20k_semantic("uper", SWIN_L),
    "knet_s3_upernet_swin-l_8x2_640x640_adamw_80k_ade20k": lambda: ade20k_semantic("uper", SWIN_L, shorter_side=640),
}
