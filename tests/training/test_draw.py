import dataclasses
from collections import Counter

import pytest
import torch

from training import dataset
from training.draw import Draw
from training.loader import load_batches
from training.shares import Share

NUM_IMAGES = 10  # with steps of 4, so that steps reach from one epoch into the next


def by_epochs(count=7, seed=0):
    return Draw([""] * count, seed, power=1.0, weights={})


def test_every_image_comes_once_an_epoch_in_a_new_order():
    draw = by_epochs()
    epochs = [[draw.image(sample, None) for sample in range(7 * e, 7 * e + 7)] for e in range(20)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 20
    assert [by_epochs().image(sample, None) for sample in (130, 3, 65)] == [epochs[18][4], epochs[0][3], epochs[9][2]]
    assert [by_epochs(seed=1).image(sample, None) for sample in range(7)] != epochs[0]


def test_groups_of_any_size_come_as_often_as_they_have_images():
    draw = Draw(["a"] * 8 + ["b"] * 2, 0, power=1.0, weights={})
    assert Counter(draw.image(sample, None) for sample in range(30)) == dict.fromkeys(range(10), 3)


@pytest.fixture(scope="module")
def index(discs, tiny_run):
    """Ten images, by their paths: copies of the set's first."""
    whole = tiny_run.read(discs)
    record = whole.records[0]
    records = []
    for number in range(NUM_IMAGES):
        path = discs / f"copy{number}.png"
        path.write_bytes(record.image_path.read_bytes())
        records.append(dataclasses.replace(record, image_path=path))
    return dataclasses.replace(whole, records=tuple(records))


@pytest.mark.parametrize(("num_processes", "accumulate", "workers"), [(1, 1, 0), (2, 1, 0), (2, 2, 1), (4, 1, 0)])
def test_processes_read_each_image_once_an_epoch_and_nothing_else(
    index, tiny_run, monkeypatch, num_processes, accumulate, workers
):
    changes = {"batch_size": 4, "steps": 15, "group_power": 1.0, "accumulate": accumulate, "workers": workers}
    config = tiny_run.config_for(index, cache_gb=0.0, **changes)
    opened = []
    read = dataset.read_sample
    monkeypatch.setattr(dataset, "read_sample", lambda record: opened.append(record.image_path) or read(record))
    shown = [[] for _ in range(config.steps)]  # by step, over all processes
    for rank in range(num_processes):
        share = Share(batch_size=4, num_micro=accumulate, rank=rank, num_processes=num_processes)
        # As a run that was stopped after six steps, and went on.
        for first, last in ((0, 6), (6, config.steps)):
            batches = load_batches(config, index, share, first, torch.device("cpu"))
            for step in range(first, last):
                for _ in range(accumulate):
                    images, targets = next(batches)
                    assert len(images) == 4 // (num_processes * accumulate)
                    shown[step] += [target.path for target in targets]
            batches.close()
    in_order = [path for step in shown for path in step]
    everything = {record.image_path for record in index.records}
    epochs = [in_order[first : first + NUM_IMAGES] for first in range(0, len(in_order), NUM_IMAGES)]
    assert len(epochs) == 6
    assert all(len(epoch) == NUM_IMAGES and set(epoch) == everything for epoch in epochs)
    if not workers:  # a process opens the files of its own samples alone
        assert Counter(opened) == Counter(in_order)
