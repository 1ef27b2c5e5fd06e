"""docs/scaling.md: its tables are what the script prints, and its model is what a simulation finds."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.queueing import capacity, model, simulate
from benchmarks.scaling import tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"


def test_tables_are_those_of_the_script():
    page = PAGE.read_text()
    for title, table in tables().items():
        assert table in page, title


@pytest.mark.parametrize(
    ("load", "run_s"), [(0.3, (0.05,) * 8), (0.8, (0.05,) * 8), (0.6, (0.05,)), (0.7, (0.02, 0.03, 0.04))]
)
def test_model_agrees_with_a_simulation(load, run_s):
    rate = load * capacity(run_s)
    expected, found = model(rate, run_s), simulate(rate, run_s, images=60_000)
    assert expected.mean == pytest.approx(found.mean(), rel=0.04)
    for percent in (50, 95):
        assert expected.percentile(percent) == pytest.approx(np.percentile(found, percent), rel=0.06)


def test_one_server_without_batches_is_the_queue_with_fixed_service():
    """Pollaczek and Khinchine: waiting is load / (2 (1 - load)) of a service."""
    load, service = 0.7, 0.05
    assert model(load / service, (service,)).mean == pytest.approx(service * (1 + load / (2 * (1 - load))), rel=0.01)


def test_rates_that_no_server_can_serve_are_refused():
    with pytest.raises(ValueError, match="legal: above 0 and below 160"):
        model(160.0, (0.05,) * 8)
