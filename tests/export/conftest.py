from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from export.artifact import export_artifact, images_below
from export.fold import fold_batch_norms
from export.options import ExportOptions
from export.to_onnx import round_weights
from model.checkpoint import save
from model.knet import KNet

IMAGES = Path(__file__).parent.parent / "data" / "nuclei" / "images" / "train"


@dataclass(frozen=True)
class Exported:
    network: KNet  # with the rounded weights that the graph has
    checkpoint: Path
    folder: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory, learned_config, seeded_config, instance_config, semantic_config) -> dict[str, Exported]:
    """One artifact of each form of first kernels and of each kind, of random weights that make many segments."""
    artifacts = {}
    configs = {"learned": learned_config, "seeded": seeded_config}
    configs |= {"instance": instance_config, "semantic": semantic_config}
    for name, config in configs.items():
        torch.manual_seed(0)
        network = KNet(config).eval()
        with torch.no_grad():
            for parameter in network.kernel_head.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            for stage in network.stages:
                if stage.class_branch is not None:
                    stage.class_branch.output.bias.fill_(0.0)
        checkpoint = tmp_path_factory.mktemp(name)
        save(network, checkpoint)
        folder = tmp_path_factory.mktemp("repository") / name / "1"
        export_artifact(
            checkpoint,
            folder,
            images_below(IMAGES),
            provenance={"data": "none"},
            console=Console(),
            options=ExportOptions(formats=("onnx",), precisions=("fp32",), half_storage=True),
        )
        fold_batch_norms(network)
        round_weights(network)
        artifacts[name] = Exported(network, checkpoint, folder)
    return artifacts
