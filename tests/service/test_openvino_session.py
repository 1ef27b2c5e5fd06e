"""OpenVINO's session: threads that the scheduler may put anywhere."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from service.openvino_session import OpenVinoSession
from service.settings import BUNDLED_REPOSITORY

pytest.importorskip("openvino")
GRAPH = BUNDLED_REPOSITORY / "cropweed" / "2" / "model.onnx"


def affinities() -> set[frozenset[int]]:
    """The CPUs that each thread of this process may use."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            found.add(frozenset(os.sched_getaffinity(int(task.name))))
    return found


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads can be asked for their CPUs on Linux alone")
def test_no_thread_is_bound_to_a_core_that_another_engine_may_have():
    session = OpenVinoSession(GRAPH, precision="fp32", threads=2)
    inputs = {"image": np.zeros((1, 512, 512, 3), np.uint8), "valid_size": np.array([(512, 512)], np.int32)}
    before = affinities()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(session.run, inputs)
        seen = set()
        while not run.done():
            seen |= affinities()
    assert seen == before
