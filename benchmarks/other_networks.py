"""K-Net R50 beside Mask2Former and EoMT: random weights, the same images, engines and kind of answer.

    python -m venv hf && hf/bin/pip install -c constraints.txt -e '.[dev]' openvino transformers
    hf/bin/python -m benchmarks.other_networks --work FOLDER [--networks NAME ...] [--engines NAME ...] [--repeats 9]
        [--threads 2] [--batch 8] [--kept 20] [--knet FOLDER] [--images FOLDER] [--out FILE]

Networks are built from their published COCO panoptic configurations, without a download. EoMT's position embeddings
are tied to one size, so that each size is a network of its own; its published one is 640x640.

An answer is a panoptic id-map with its segments. K-Net's graph holds the merge, and the host lists the segments; the
others' masks are merged by their own image processors (post_process_panoptic_segmentation, in PyTorch). Random scores
pass no threshold, which would make that free: for them the threshold is the score of the query after the `--kept` best
of the first image, about as many as a photograph has. K-Net keeps what it may: its thresholds are 0. Normalisation is
in K-Net's figures and not in the others', whose inputs are prepared before. K-Net is made here as it was published,
with the exact merge; `--knet` names an artifact of the same network for the lines that are not PyTorch's, such as one
exported with the merge in cells from the checkpoint beside that one.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines import GRAPH, ensure_r50, graph_inputs
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

if TYPE_CHECKING:  # torch and transformers cost start-up time and memory that are not all engines'
    from torch import Tensor, nn

NUM_CLASSES, FIRST_STUFF = 133, 80  # COCO panoptic
OUTPUTS = ("class_queries_logits", "masks_queries_logits")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_BATCH = 64
ENGINE_NAMES = ("torch", "torch.compile", "onnxruntime-fp32", "openvino-fp32", "openvino-bf16")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is measured: a family, a square input, and what tells its members apart."""

    name: str
    family: str  # "knet", "mask2former", "eomt"
    side: int = 512
    backbone: str = ""  # mask2former: "resnet50" or "swin-t"
    encoder: tuple[int, int, int, int] = (0, 0, 0, 0)  # eomt: width, layers, heads, last layers that see the queries


SMALL, LARGE = (384, 12, 6, 3), (1024, 24, 16, 4)
NETWORKS = {
    network.name: network
    for network in (
        Network(name="knet-r50", family="knet"),
        Network(name="mask2former-r50", family="mask2former", backbone="resnet50"),
        Network(name="mask2former-swin-t", family="mask2former", backbone="swin-t"),
        Network(name="eomt-s-512", family="eomt", encoder=SMALL),
        Network(name="eomt-l-512", family="eomt", encoder=LARGE),
        Network(name="eomt-s-640", family="eomt", encoder=SMALL, side=640),
        Network(name="eomt-l-640", family="eomt", encoder=LARGE, side=640),
    )
}


def make_network(network: Network, *, attention: str = "sdpa") -> "nn.Module":
    """Pixels (B, 3, H, W) -> class logits and mask logits of the queries."""
    import torch
    from torch import nn
    from transformers import (
        EomtConfig,
        EomtForUniversalSegmentation,
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        ResNetConfig,
        SwinConfig,
    )

    class Queries(nn.Module):
        """Of the last layer alone, which is all that the image processors read."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixel_values: "Tensor") -> "tuple[Tensor, Tensor]":
            output = self.inner(pixel_values=pixel_values)
            return output.class_queries_logits, output.masks_queries_logits

    torch.manual_seed(0)
    if network.family == "mask2former":
        backbone = ResNetConfig(out_features=STAGES)
        if network.backbone == "swin-t":
            backbone = SwinConfig(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], out_features=STAGES)
        config = Mask2FormerConfig(backbone_config=backbone, num_labels=NUM_CLASSES)
        return Queries(Mask2FormerForUniversalSegmentation(config)).eval()
    width, layers, heads, num_blocks = network.encoder
    config = EomtConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_blocks=num_blocks,
        image_size=network.side,
        num_labels=NUM_CLASSES,
        attn_implementation=attention,
    )
    eomt = EomtForUniversalSegmentation(config).eval()
    # Mask attention is over at the end of its training: a constant, which export does not have to ask for.
    del eomt.attn_mask_probs
    eomt.attn_mask_probs = (0.0,) * num_blocks
    return Queries(eomt).eval()


def count(started: float, network: Network) -> Iterator[Figures]:
    """Operations of one image."""
    if network.family == "knet":
        from model.knet import KNet
        from model.official import R50, coco

        gflop = count_gflop(lambda: KNet(coco("panoptic", R50)), 1, 3, network.side, network.side)
    else:
        # Fused attention is not counted on every device.
        make = lambda: make_network(network, attention="eager")  # noqa: E731
        gflop = count_gflop(make, 1, 3, network.side, network.side)
    yield {"gflop": gflop}


def export(started: float, network: Network, path: Path) -> Iterator[Figures]:
    """The network as an ONNX graph of any batch."""
    import torch

    program = torch.onnx.export(
        make_network(network),
        (torch.zeros(2, 3, network.side, network.side),),
        dynamo=True,
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}},
        input_names=["pixel_values"],
        output_names=list(OUTPUTS),
        opset_version=18,
        verbose=False,
    )
    assert program is not None  # with dynamo=True
    program.save(path, external_data=True)
    yield {"exported": str(path)}


class TorchSession:
    """A network of make_network behind the interface of the engines that serve."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once."""
        import torch

        with torch.inference_mode():
            outputs = self.model(torch.from_numpy(inputs["pixel_values"]))
        return {name: tensor.numpy() for name, tensor in zip(OUTPUTS, outputs, strict=True)}


class QueryMerge:
    """The family's own image processor, from the queries' logits to one id-map an image."""

    def __init__(self, network: Network, kept: int) -> None:
        import torch
        from transformers import EomtImageProcessor, Mask2FormerImageProcessor

        self.side, self.kept = network.side, kept
        self.threshold: float | None = None
        size = {"height": network.side, "width": network.side}
        stuff = range(FIRST_STUFF, NUM_CLASSES)
        if network.family == "eomt":
            # Not its own size by the shorter edge: the input is square as it is.
            self.processor = EomtImageProcessor(size={"shortest_edge": network.side, "longest_edge": network.side})
            self.options: dict[str, Any] = {"stuff_classes": list(stuff)}
        else:
            self.processor = Mask2FormerImageProcessor(size=size)
            self.options = {"label_ids_to_fuse": set(stuff)}
        self._torch = torch

    def __call__(self, outputs: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
        """One id-map with its segments an image."""
        logits = {name: self._torch.from_numpy(outputs[name]) for name in OUTPUTS}
        if self.threshold is None:
            self.threshold = self._threshold(logits["class_queries_logits"][0])
        with self._torch.inference_mode():
            return self.processor.post_process_panoptic_segmentation(
                SimpleNamespace(**logits),
                threshold=self.threshold,
                target_sizes=[(self.side, self.side)] * len(logits["class_queries_logits"]),
                **self.options,
            )

    def _threshold(self, class_logits: "Tensor") -> float:
        scores, labels = class_logits.softmax(-1).max(-1)
        scores = scores[labels < NUM_CLASSES].sort(descending=True).values
        return float(scores[self.kept]) if len(scores) > self.kept else 0.0


def list_segments(outputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """K-Net's answers: the host's part, as service.segmenter does it for a canvas that is full."""
    from service.segments import from_id_map

    answers = []
    for id_map, ids, classes, scores in zip(
        *(outputs[name] for name in ("id_map", "segment_id", "class_index", "score")), strict=True
    ):
        kept = np.flatnonzero(ids)
        new_id = np.zeros(max(int(ids.max(initial=0)), int(id_map.max(initial=0))) + 1, np.int32)
        new_id[ids[kept]] = np.arange(1, len(kept) + 1)
        answers.append(from_id_map(new_id[id_map], classes[kept], scores[kept]))
    return answers


def run(
    started: float,
    engine: Engine,
    network: Network,
    folder: Path,
    images: NDArray[np.uint8],
    kept: int,
    settings: Settings,
) -> Iterator[Figures]:
    """Figures of a network in an engine; graphs are in `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        if engine.runtime == "torch" or network.family != "knet":  # the others' merges are in torch
            prepare_torch(settings.threads, Path(scratch))
        if engine.runtime == "torch":
            session = _torch_session(engine, network)
        else:
            session = open_graph(engine, folder / GRAPH, settings.threads)
        if network.family == "knet":
            inputs = graph_inputs(artifact.load(folder), images)
            inputs |= {name: np.zeros_like(values) for name, values in inputs.items() if "threshold" in name}
            finish: Callable[..., Any] = list_segments
        else:
            pixels = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
            inputs = {"pixel_values": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))}
            finish = QueryMerge(network, kept)
        one = {name: values[:1] for name, values in inputs.items()}
        yield from time_session(started, session, one, inputs, settings, finish)


def _torch_session(engine: Engine, network: Network) -> Any:
    import torch

    if network.family == "knet":
        from model.knet import KNet
        from model.official import R50, coco
        from training.serving_path import TorchSession as KNetSession

        session: Any = KNetSession(KNet(coco("panoptic", R50)).eval())
    else:
        session = TorchSession(make_network(network))
    if engine.compiled:
        session.model = torch.compile(session.model, dynamic=False)
    return session


def ensure_graph(network: Network, work: Path, knet: Path | None) -> tuple[Path, str | None]:
    """The folder of a network's graph, and why it has none; made on the first use, unless it is named."""
    if network.family == "knet":
        return knet or ensure_r50(work), None
    folder = work / network.name
    if (folder / GRAPH).is_file():
        return folder, None
    folder.mkdir(parents=True, exist_ok=True)
    figures = measure(export, network, folder / GRAPH)
    return folder, figures.get("error")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--engines", nargs="+", choices=ENGINE_NAMES, default=list(ENGINE_NAMES))
    parser.add_argument("--kept", type=int, default=20, help="queries of an image that pass the score threshold")
    parser.add_argument("--knet", type=Path, help="artifact of K-Net R50 to measure in place of the one that is made")
    add_options(parser)
    arguments = parser.parse_args()

    settings, work = settings_of(arguments), arguments.work
    work.mkdir(parents=True, exist_ok=True)
    peaks = measure_peaks(arguments.engines, work, settings)
    results = []
    for name in arguments.networks:
        network = NETWORKS[name]
        images = load_images(arguments.images, (network.side, network.side), settings.batch)
        gflop = measure(count, network).get("gflop")
        needs_graph = network.family == "knet" or any(ENGINES[each].runtime != "torch" for each in arguments.engines)
        folder, obstacle = ensure_graph(network, work, arguments.knet) if needs_graph else (work, None)
        for engine_name in arguments.engines:
            engine = ENGINES[engine_name]
            if engine.runtime != "torch" and obstacle is not None:
                figures: Figures = {"error": f"export: {obstacle}"}
            else:
                figures = measure(run, engine, network, folder, images, arguments.kept, settings)
                if engine.runtime != "torch":
                    figures["file_mb"] = file_mb(folder / GRAPH)
            add_floor(figures, gflop, peaks.get(engine_name), settings.batch)
            results.append({"network": name, "engine": engine_name, "gflop": gflop, **figures})
            print(results[-1], flush=True)
    print_results(results, peaks, settings, arguments.out, kept=arguments.kept)


if __name__ == "__main__":
    main()
