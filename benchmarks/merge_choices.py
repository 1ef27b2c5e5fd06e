"""The ways to merge masks into one map, by what they cost and what they lose.

    python -m benchmarks.merge_choices time [--repeats 20]
    python -m benchmarks.merge_choices accuracy CHECKPOINT DATA [--max-images N] [--description FILE]

- pixels: N masks are enlarged to the pixels of the map, and the highest wins; exact.
- stride 2, 4, 8: the same on a coarser map, which the host enlarges by nearest cell.
- strips: pixels, a quarter of the rows at once; exact, for memory.
- selected: pixels, but only for the 100 kernels of the highest scores.
- cells: N kernels compete in the cells of the feature map, four in each pixel (model/cell_merge.py).

Times are of the merge alone, as a graph in OpenVINO (bf16) on one thread, of random masks that look like segments: the
least processor time of all repeats, which other work on the machine disturbs little. Accuracy is of a checkpoint in
PyTorch, whose network runs once for all ways.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openvino
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.merge_ways import choices
from benchmarks.request import processor
from model.checkpoint import load
from model.config import KNetConfig, knet_nuclei
from model.knet import KNet, KNetOutput, enlarge
from model.merge import make_candidates
from model.official import R50, coco
from model.panoptic import PanopticModel
from service.segmenter import Segmenter
from training.data.index import evenly_spaced
from training.data.open import open_data
from training.metrics import Evaluation
from training.predictor import make_plan, match_categories, predictor_of, to_data_classes
from training.serving_path import TorchSession, metadata_of

CANVASES = {"nuclei, 256x256": (256, 256), "R50 panoptic, 512x512": (512, 512)}


class MergeAlone(nn.Module):
    """Masks and scores of kernels -> id-map: what is timed."""

    def __init__(self, config: KNetConfig, merge: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.merge, self.size = config, merge, size

    def forward(self, mask_logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (1, N, h, w) at the feature stride, scores (1, N)."""
        config = self.config
        enlarged = enlarge(mask_logits, config.mask_upsample, None, outside=0.0)
        output = KNetOutput((enlarged,), mask_logits, (), mask_logits)
        is_stuff = torch.arange(scores.shape[1]) >= scores.shape[1] - config.num_stuff
        candidates = make_candidates(scores, is_stuff, torch.tensor([config.score_threshold]), config.merge)
        valid_size = torch.tensor([self.size], dtype=torch.int32)
        merged = self.merge(output, candidates, torch.tensor([config.overlap_threshold]), valid_size, self.size)
        return merged.id_map, merged.segment_id


def time_choices(repeats: int) -> Iterator[dict[str, object]]:
    """A line for each network and way."""
    configs = (knet_nuclei(coco("panoptic", R50).categories[:1] + coco("panoptic", R50).categories[-1:]),)
    configs += (coco("panoptic", R50),)
    rng = torch.Generator().manual_seed(0)
    for (name, size), config in zip(CANVASES.items(), configs, strict=True):
        cells = [side // config.feature_stride for side in size]
        noise = torch.randn(1, config.num_slots, *(side // 8 for side in cells), generator=rng)
        masks = 4 * F.interpolate(noise, size=cells, mode="bilinear") - 2
        scores = torch.rand(1, config.num_slots, generator=rng)
        for way, (changed, merge) in choices(config).items():
            yield {
                "network": name,
                "way": way,
                "ms": time_merge(MergeAlone(changed, merge, size), masks, scores, repeats),
            }


def time_merge(module: MergeAlone, masks: Tensor, scores: Tensor, repeats: int) -> float:
    """Least processor time of a run, ms."""
    program = torch.onnx.export(module.eval(), (masks, scores), dynamo=True, opset_version=18, verbose=False)
    assert program is not None  # with dynamo=True
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "merge.onnx")
        graph = openvino.Core().read_model(str(Path(folder) / "merge.onnx"))
        compiled = openvino.Core().compile_model(
            graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1}
        )
        request, inputs = compiled.create_infer_request(), [masks.numpy(), scores.numpy()]
        request.infer(inputs)
        spent = []
        for _ in range(repeats):
            before = time.process_time()
            request.infer(inputs)
            spent.append(time.process_time() - before)
    return 1000 * min(spent)


class Shared(nn.Module):
    """A network that runs once for all ways, in which its outputs are merged."""

    def __init__(self, network: KNet, config: KNetConfig, last: dict[bytes, KNetOutput]) -> None:
        super().__init__()
        self.network, self.config, self.last = network, config, last

    def forward(self, pixels: Tensor, valid: Tensor | None) -> KNetOutput:
        """As the network's own."""
        key = pixels.numpy().tobytes()
        if key not in self.last:
            self.last[key] = self.network(pixels, valid)
        return self.last[key]


def score_choices(
    checkpoint: Path, data: Path, description: Path | None, max_images: int | None
) -> Iterator[dict[str, object]]:
    """A line for each way: the score that decides for this model and data."""
    network = load(checkpoint)
    index = open_data(data, "val", description)
    last: dict[bytes, KNetOutput] = {}
    predictors = {}
    for way, (config, merge) in choices(network.config).items():
        if way == "strips":  # exact: it loses nothing
            continue
        session = TorchSession(network)
        model = PanopticModel(Shared(network, config, last)).eval()  # type: ignore[arg-type]
        model.merge = merge  # type: ignore[assignment]
        session.model = model
        predictors[way] = predictor_of(Segmenter(metadata_of(config), session))
    first = next(iter(predictors.values()))
    plan = make_plan(first, index)
    class_of = match_categories(first, index, plan)
    evaluations = {way: Evaluation(index.categories, plan) for way in predictors}
    for record in track(evenly_spaced(index.records, max_images), transient=True):
        content, annotation = record.image_path.read_bytes(), record.source.read(record.height, record.width)
        for way, predictor in predictors.items():
            evaluations[way].add(
                to_data_classes(predictor.predict(content), class_of), annotation, name=record.image_path.name, group=""
            )
        last.clear()
    for way, evaluation in evaluations.items():
        name, value = evaluation.scores().main
        yield {"way": way, "score": name, "value": value}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    timed = commands.add_parser("time")
    timed.add_argument("--repeats", type=int, default=20)
    scored = commands.add_parser("accuracy")
    scored.add_argument("checkpoint", type=Path)
    scored.add_argument("data", type=Path)
    scored.add_argument("--max-images", type=int)
    scored.add_argument("--description", type=Path)
    given = parser.parse_args()
    if given.command == "time":
        lines = list(time_choices(given.repeats))
    else:
        lines = list(score_choices(given.checkpoint, given.data, given.description, given.max_images))
    table = Table(*lines[0], title=processor())
    for line in lines:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in line.values()))
    Console().print(table)
    print(json.dumps({"processor": processor(), "results": lines}))


if __name__ == "__main__":
    main()
