"""Small runs for the tests of the trainer; also a program, so that runs can be killed: tiny_run.py DATA OUT.

Not a test file: the tests load it by the fixture `tiny_run`.
"""

import argparse
import dataclasses
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from service.overlay import panoptic_png  # noqa: E402
from training.augment import AugmentConfig  # noqa: E402
from training.changes import parse_changes, with_changes  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.data.coco_panoptic import find_coco_panoptic, read_coco_panoptic  # noqa: E402
from training.engine import Devices, end_with_parent, make_fabric  # noqa: E402
from training.loader import load_batches  # noqa: E402
from training.loss_config import LossConfig  # noqa: E402
from training.peers import watched_by_all  # noqa: E402
from training.recipes import SEEDED_LOSS  # noqa: E402
from training.trainer import Trainer  # noqa: E402

networks = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "tiny_networks.py")))
SIZE = 48
CATEGORIES = (
    {"id": 3, "name": "cell", "isthing": 1, "color": (200, 0, 0)},
    {"id": 1, "name": "dot", "isthing": 1, "color": (0, 200, 0)},
    {"id": 7, "name": "ground", "isthing": 0, "color": (0, 0, 200)},
    {"id": 9, "name": "glass", "isthing": 0, "color": (90, 90, 90)},
)


def write_discs(folder):
    """A COCO panoptic set of four images: bright and dark discs on two halves of ground and glass."""
    for split in ("train", "val"):
        (folder / "annotations" / f"panoptic_{split}").mkdir(parents=True)
        (folder / "images" / split).mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    images, annotations = [], []
    for number in range(4):
        id_map = np.where(x < SIZE // 2, 1, 2).astype(np.int32)
        category_of = {1: 7, 2: 9}
        for segment in range(3, 6):
            centre_y, centre_x, radius = rng.uniform(8, 40), rng.uniform(8, 40), rng.uniform(4, 8)
            id_map[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = segment
            category_of[segment] = 3 if segment % 2 else 1
        shade = np.array([0, 60, 90, 220, 150, 250])[id_map] + rng.integers(-5, 5, (SIZE, SIZE))
        name = f"{number}.png"
        for split in ("train", "val"):
            cv2.imwrite(str(folder / "images" / split / name), shade.clip(0, 255).astype(np.uint8))
            (folder / "annotations" / f"panoptic_{split}" / name).write_bytes(panoptic_png(id_map))
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        segments = [
            {
                "id": i,
                "category_id": category_of[i],
                "area": int((id_map == i).sum()),
                "bbox": [0, 0, 1, 1],
                "iscrowd": 0,
            }
            for i in np.unique(id_map).tolist()
        ]
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    document = {"categories": CATEGORIES, "images": images, "annotations": annotations}
    for split in ("train", "val"):
        (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(document))
    return folder


def read(folder, split="train"):
    return read_coco_panoptic(*find_coco_panoptic(folder, split))


def other_models(categories):
    """The paper's three forms."""
    # Batch norm of a few pooled cells blows up the last digits, in which processors may differ from call to call.
    plain = {"neck": "fcn", "feature_stride": 32, "norm": "group", "dropout": 0.0}
    semantic = dataclasses.replace(networks.semantic(categories), **plain)
    return {
        "panoptic": networks.learned(categories),
        "instance": networks.instance(categories),
        "semantic": semantic,
    }


def config_for(index, **changes):
    """Six steps in about a second."""
    config = TrainConfig(
        model=networks.seeded(index.categories),
        loss=SEEDED_LOSS,
        augment=AugmentConfig(crop_size=32),
        pretrained=False,
        steps=6,
        batch_size=2,
        learning_rate=1e-3,
        warmup_steps=2,
        ema_decay=0.5,
        forced_seeds_until=0.9,
        save_every=2,
        workers=0,
    )
    return dataclasses.replace(config, **changes)


def launched(config, devices=1, nodes=1):
    fabric = make_fabric(Devices(accelerator="cpu", devices=devices, nodes=nodes), config.precision)
    fabric.launch()
    end_with_parent()
    return fabric


def trainer_for(config, folder, out, kind=Trainer, **options):
    return kind(config, read(folder), read(folder, "val"), out, launched(config), **options)


def write_gradients(config, data, out, fabric):
    """The gradients of one step, for each form of network, as OUT/FORM.pt."""
    index = read(data)
    crops = AugmentConfig(crop_size=64)
    forms = {"seeded": config.model, **other_models(index.categories)}
    for form, model in forms.items():
        loss = config.loss if form == "seeded" else LossConfig()
        changed = dataclasses.replace(config, model=model, loss=loss, clip_norm=1e9, batch_norm="frozen", augment=crops)
        trainer = Trainer(changed, index, index, out / form, fabric)
        named = list(trainer.learner.network.named_parameters())
        gradients = {}
        trainer.learner.optimiser.register_step_pre_hook(
            lambda *_, named=named, gradients=gradients: gradients.update({name: p.grad.clone() for name, p in named})
        )
        trainer._train_step(load_batches(changed, index, trainer.share, 0, fabric.device))
        if fabric.is_global_zero:
            out.mkdir(exist_ok=True)
            torch.save(gradients, out / f"{form}.pt")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--weights", type=Path, help="folder; each process writes those it ends with as RANK.pt")
    parser.add_argument("--gradients", action="store_true", help="write those of one step instead of training")
    given = parser.parse_args()
    config = with_changes(config_for(read(given.data)), parse_changes(given.set))
    fabric = launched(config, given.devices, given.nodes)
    if given.gradients:
        write_gradients(config, given.data, given.out, fabric)
        return
    with watched_by_all(fabric):
        trainer = Trainer(config, read(given.data), read(given.data, "val"), given.out, fabric)
        trainer.run()
    if given.weights:
        given.weights.mkdir(exist_ok=True)
        torch.save(trainer.learner.network.state_dict(), given.weights / f"{fabric.global_rank}.pt")


if __name__ == "__main__":
    main()
