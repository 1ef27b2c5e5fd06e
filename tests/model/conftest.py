from collections.abc import Callable

import pytest
import torch


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., dict[str, torch.Tensor]]:
    """Makes what all graphs take: noise of that size, and the size of its content."""

    def make(batch=2, height=64, width=96, valid_size=None):
        generator = torch.Generator().manual_seed(6)
        return {
            "image": torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8),
            "valid_size": torch.tensor(valid_size or [[height, width]] * batch, dtype=torch.int32),
        }

    return make
