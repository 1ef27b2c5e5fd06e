import pytest

from training.shares import MicroBatches, Share


@pytest.mark.parametrize(("num_processes", "num_micro"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 3)])
def test_a_step_sees_the_same_samples_however_it_is_divided(num_processes, num_micro):
    seen = {}
    for rank in range(num_processes):
        share = Share(batch_size=12, num_micro=num_micro, rank=rank, num_processes=num_processes)
        batches = list(MicroBatches(share, 3, 5))
        assert len(batches) == len(MicroBatches(share, 3, 5)) == 2 * num_micro
        for number, batch in enumerate(batches):
            step = 3 + number // num_micro
            assert batch == list(share.numbers(step, number % num_micro))
            assert len(batch) == share.micro_size
            seen.setdefault(step, []).extend(batch)
    assert {step: sorted(numbers) for step, numbers in seen.items()} == {
        3: list(range(36, 48)),
        4: list(range(48, 60)),
    }


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(
        ValueError, match="batch_size is 6; legal for 2 processes with 2 micro-batches each: multiples of 4"
    ):
        Share(batch_size=6, num_micro=2, rank=0, num_processes=2)
