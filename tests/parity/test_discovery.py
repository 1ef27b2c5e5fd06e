"""Golden files that are given must be read."""

import pytest


def test_every_golden_file_is_read(pytestconfig, unread):
    folder = pytestconfig.golden_folder
    if not pytestconfig.getoption("--golden") and not folder.is_dir():
        pytest.skip(f"{folder} is not here: the official code's numbers are kept beside the repository")
    assert list(folder.glob("*")), f"{folder} is empty"
    assert unread(folder) == []


def test_unread_files_are_found(tmp_path, unread):
    for name in (
        "knet_s3_r50_fpn_1x_coco__noise_128x128.npz",
        "knet_s3_fcn_r50-d8_80k_adamw_ade20k__block_96x160.npz",
        "train__knet_s3_r50_fpn_1x_coco-panoptic__b2_nostuff.json",
        "train__knet_s3_r50_fpn_1x_coco-panoptic__b2_nostuff.npz",
        "train__knet_s3_r50_fpn_1x_coco-panoptic__b2_nostuff__grads.tsv",
        "train__knet_s3_fcn_r50-d8_80k_adamw_ade20k.json",
        "components.npz",
        "README.md",
    ):
        (tmp_path / name).touch()
    assert unread(tmp_path) == []
    for name in ("faster_rcnn__noise_128x128.npz", "train__knet_s3_r50_fpn_1x_coco__b1__grads.tsv"):
        (tmp_path / name).touch()
    assert unread(tmp_path) == [
        "faster_rcnn__noise_128x128.npz",
        "train__knet_s3_r50_fpn_1x_coco__b1__grads.tsv",
    ]
