"""Networks of which the references beside the repository hold nothing, or too small an input, against mmsegmentation.

Its own UPerNets have 512 channels and are the only ones of which files were published. At 128x128 the wide dilations of
DeepLabV3 see nothing but padding.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.official_names import expected_tensors, to_ours
from model.knet import KNet
from model.official import OFFICIAL

GOLDEN = Path(__file__).parents[1] / "golden" / "mmsegmentation.npz"
# Samples that the golden file keeps.
LOGITS, KERNELS = np.s_[:, ::10, ::4, ::4], np.s_[:, ::10, ::16]


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("knet_s3_upernet_r50-d8_8x2_512x512_adamw_80k_ade20k", "noise_128x128"),
        ("knet_s3_upernet_swin-t_8x2_512x512_adamw_80k_ade20k", "noise_128x128"),
        pytest.param("knet_s3_pspnet_r50-d8_80k_adamw_ade20k", "noise_320x384", marks=pytest.mark.slow),
        pytest.param("knet_s3_deeplabv3_r50-d8_80k_adamw_ade20k", "noise_320x384", marks=pytest.mark.slow),
    ],
)
def test_stages_are_those_of_mmsegmentation(name, case, official_weights, tools):
    config = OFFICIAL[name]()
    table = {key: one.shape for key, one in expected_tensors(config).items()}
    state = {key: torch.from_numpy(value) for key, value in official_weights.make_state(table).items()}
    network = KNet(config).double().eval()
    network.load_state_dict(to_ours(state, config))
    seen = tools.capture(network, tools.make_input(official_weights, case))
    ours = {"init_logits": seen["head"].seg_logits[LOGITS]}
    ours |= {f"s{i}_logits": seen[f"s{i}"][0].mask_logits[LOGITS] for i in range(3)}
    ours["s2_kernels"] = tools.as_official(seen["s2"][0].weights)[KERNELS]
    with np.load(GOLDEN) as file:
        for part, value in ours.items():
            golden = file[f"{name}/{case}/{part}"]
            # float64 on both sides, stored as float32.
            np.testing.assert_allclose(value.detach(), golden, rtol=0, atol=1e-6 * np.abs(golden).max())
