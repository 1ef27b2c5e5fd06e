"""OpenVINO's session: threads that the scheduler may put anywhere, and two small runs at once."""

import os
import subprocess
import sys
import threading
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


def inputs_of(side: int, seed: int) -> dict[str, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 256, (1, side, side, 3), np.uint8)
    return {"image": image, "valid_size": np.array([(side, side)], np.int32)}


def test_runs_at_once_give_what_runs_alone_give():
    alone = OpenVinoSession(GRAPH, precision="fp32", threads=2)
    paired = OpenVinoSession(GRAPH, precision="fp32", threads=2, paired_pixels=64 * 64)
    assert (alone.runs_at_once, paired.runs_at_once) == (1, 2)
    given = [inputs_of(side, seed) for seed, side in enumerate((64, 64, 128, 64, 128, 64, 64, 64))]
    with ThreadPoolExecutor(paired.runs_at_once) as pool:
        results = list(pool.map(paired.run, given))
    for inputs, result in zip(given, results, strict=True):
        for name, expected in alone.run(inputs).items():
            np.testing.assert_array_equal(result[name], expected)


def test_a_large_run_waits_for_the_whole_graph_and_a_small_one_does_not(monkeypatch):
    session = OpenVinoSession(GRAPH, precision="fp32", threads=2, paired_pixels=64 * 64)
    whole, is_running, may_end = session._whole, threading.Event(), threading.Event()
    run = whole.run

    def run_until_told(inputs):
        is_running.set()
        may_end.wait(30)
        return run(inputs)

    monkeypatch.setattr(whole, "run", run_until_told)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.run, inputs_of(64, 0))
        assert is_running.wait(30)
        session.run(inputs_of(64, 1))  # on half of the threads
        second = pool.submit(session.run, inputs_of(128, 2))
        session.run(inputs_of(64, 3))
        assert not first.done()
        assert not second.done()
        may_end.set()
        first.result(30)
        second.result(30)


def test_a_half_whose_run_fails_is_used_again():
    session = OpenVinoSession(GRAPH, precision="fp32", threads=2, paired_pixels=64 * 64)
    session._num_running = 1  # as beside another run
    session.run(inputs_of(64, 0))
    (half,) = session._halves
    with pytest.raises(RuntimeError):
        session.run(inputs_of(64, 0) | {"image": np.zeros((1, 64, 64, 2), np.uint8)})
    assert list(session._halves) == [half]


def test_one_thread_is_not_divided():
    assert OpenVinoSession(GRAPH, precision="fp32", threads=1, paired_pixels=64 * 64).runs_at_once == 1


def test_a_signal_after_a_session_was_dropped_in_another_thread_ends_no_process():
    program = f"""
import signal
from concurrent.futures import ThreadPoolExecutor
from service.openvino_session import OpenVinoSession

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
sessions = [OpenVinoSession({str(GRAPH)!r}, precision="fp32", threads=1)]
with ThreadPoolExecutor(1) as pool:
    pool.submit(sessions.clear).result()
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n")
