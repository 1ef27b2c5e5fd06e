import contextlib
import resource

import numpy as np
import pytest

from service.pixels import png
from training.run_log import LOG, TENSORBOARD, RunLog


@contextlib.contextmanager
def full_disk():
    """No file of this process grows beyond 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_disk_that_was_full_for_a_while_is_no_error_later(tmp_path):
    page = tmp_path / "page.png"
    page.write_bytes(png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    log = RunLog(tmp_path, 0)
    log.write(1, {"total": 1.0})
    with full_disk(), pytest.raises(OSError, match="File too large"):
        log.write_scores(1, {"pq": 0.5}, page)
    log.write(2, {"total": 1.0})
    log.write_scores(2, {"pq": 0.5}, page)
    log.close()
    assert sum(file.stat().st_size > page.stat().st_size for file in (tmp_path / TENSORBOARD).iterdir()) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_that_cannot_be_ended_is_no_error(tmp_path):
    log = RunLog(tmp_path, 0)
    with full_disk():
        for step in range(200):
            with contextlib.suppress(OSError):
                log.write(step, {"total": 1.0})
        log.close()
    assert all(file.stat().st_size <= 4096 for file in tmp_path.rglob("*") if file.is_file())
    assert (tmp_path / LOG).read_text().startswith("step,total\n0,")
