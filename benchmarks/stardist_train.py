"""StarDist on the nuclei data, for the comparison in docs/results.md; in an environment of its own, for TensorFlow.

    python -m venv sd && sd/bin/pip install stardist tensorflow-cpu opencv-python-headless
    knet convert dsb2018_nuclei nuclei
    OMP_NUM_THREADS=1 taskset -c 1 sd/bin/python benchmarks/stardist_train.py nuclei out --cpu-minutes 45
    python -m benchmarks.score_label_maps dsb2018_nuclei out/labels

One core. As many steps as fit into the processor time given, its usual settings (32 rays, grid 2, patches of 256x256,
batches of 4), a cosine instead of its plateau rule, which so short a run would never trigger. Its thresholds are then
tuned on the validation images themselves, which favours it.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
from csbdeep.utils import normalize
from stardist import fill_label_holes
from stardist.models import Config2D, StarDist2D

LEARNING_RATE = 3e-4  # StarDist's
EPOCH = 50  # steps


def load(data: Path, split: str) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Images, label maps and names of one split of a COCO panoptic set with nuclei as category 1."""
    document = json.loads((data / f"annotations/panoptic_{split}.json").read_text())
    file_names = {image["id"]: image["file_name"] for image in document["images"]}
    images, labels, names = [], [], []
    for entry in document["annotations"]:
        name = file_names[entry["image_id"]]
        image = cv2.imread(str(data / "images" / split / name))[..., ::-1].astype(np.float32)
        colours = cv2.imread(str(data / f"annotations/panoptic_{split}" / entry["file_name"])).astype(np.int32)
        ids = colours[..., 2] + 256 * colours[..., 1] + 65536 * colours[..., 0]
        label = np.zeros(ids.shape, np.int32)
        nuclei = [segment["id"] for segment in entry["segments_info"] if segment["category_id"] == 1]
        for number, segment_id in enumerate(nuclei, start=1):
            label[ids == segment_id] = number
        images.append(normalize(image, 1, 99.8, axis=(0, 1, 2)))
        labels.append(fill_label_holes(label))
        names.append(name)
    return images, labels, names


class Progress(tf.keras.callbacks.Callback):
    """Processor time used, after each epoch."""

    def __init__(self, started: float) -> None:
        super().__init__()
        self.started = started

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Print a line."""
        minutes = (time.process_time() - self.started) / 60
        print(f"epoch {epoch} cpu min {minutes:.1f} loss {logs['loss']:.4f} val {logs['val_loss']:.4f}", flush=True)


def main() -> None:
    """Train, tune, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpu-minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)

    def augment(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turns, flips, brightness and noise, as in StarDist's examples."""
        turns = rng.integers(4)
        x, y = np.rot90(x, turns), np.rot90(y, turns)
        if rng.random() < 0.5:
            x, y = x[::-1], y[::-1]
        x = x * rng.uniform(0.6, 2) + rng.uniform(-0.2, 0.2)
        return x + rng.normal(0, 0.02 * rng.random(), x.shape).astype(np.float32), y

    started = time.process_time()
    train_images, train_labels, _ = load(arguments.data, "train")
    val_images, val_labels, names = load(arguments.data, "val")
    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=3,
        train_patch_size=(256, 256),
        train_batch_size=4,
        train_tensorboard=False,
        train_sample_cache=False,
        use_gpu=False,
        train_reduce_lr=None,
    )
    model = StarDist2D(config, name="stardist", basedir=str(arguments.out))
    model.prepare_for_training()
    val = (val_images[::8], val_labels[::8])

    def fit(epochs: int, steps: int) -> None:
        model.train(
            train_images, train_labels, validation_data=val, augmenter=augment, epochs=epochs, steps_per_epoch=steps
        )

    fit(1, 8)
    before = time.process_time()
    fit(1, 12)
    a_step = (time.process_time() - before) / 12
    left = arguments.cpu_minutes * 60 - (time.process_time() - started)
    epochs = max(1, int(left / a_step) // EPOCH)

    def rate(epoch: int) -> float:
        return LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * epoch / epochs)))

    model.callbacks += [tf.keras.callbacks.LearningRateScheduler(rate), Progress(started)]
    fit(epochs, EPOCH)
    minutes = (time.process_time() - started) / 60
    print(f"trained: {epochs * EPOCH} steps, {minutes:.1f} cpu minutes", flush=True)
    print(model.optimize_thresholds(val_images, val_labels, nms_threshs=[0.3, 0.4, 0.5], iou_threshs=[0.5]))
    folder = arguments.out / "labels"
    folder.mkdir(exist_ok=True)
    for image, name in zip(val_images, names, strict=True):
        cv2.imwrite(str(folder / f"{Path(name).stem}.png"), model.predict_instances(image)[0].astype(np.uint16))
    run = {"cpu_minutes": minutes, "steps": epochs * EPOCH, "seed": arguments.seed}
    (arguments.out / "run.json").write_text(json.dumps(run) + "\n")


if __name__ == "__main__":
    main()
