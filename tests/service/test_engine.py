import concurrent.futures
import logging
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from service import engine as engine_module
from service.artifact import file_sha256
from service.engine import Engine, EngineOptions
from service.errors import EngineDownError, ServiceError
from service.observer import Observer, Run
from service.segmenter import Segmenter
from service.session import OnnxSession
from service.ticket import Ticket
from service.variants import open_session
from tests.service.driving import fail_once


@pytest.fixture
def start_engine(tiny, tmp_path):
    engines = []

    def start(*, timeout_s: float = 60.0, opener=open_session, observer=None, max_batch: int = 8, **options) -> Engine:
        metadata = tiny.write_artifact(tmp_path, **options)
        engine = Engine(
            metadata,
            tmp_path / "tiny" / "1",
            metadata.variants,
            EngineOptions(threads=1, timeout_s=timeout_s, max_batch=max_batch),
            opener=opener,
            observer=observer,
        )
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def request(side: int = 32) -> dict[str, np.ndarray]:
    return {
        "image": np.full((1, side, side, 3), 7, np.uint8),
        "valid_size": np.array([[side, side]], np.int32),
        "score_threshold": np.array([0.5], np.float32),
        "overlap_threshold": np.array([0.5], np.float32),
    }


class Recorder(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def ran(self, run: Run) -> None:
        self.runs.append(run)


class PairedSession(OnnxSession):
    """Two runs of a tenth of a second may be at once."""

    def run(self, inputs):
        time.sleep(0.1)
        return super().run(inputs)


def open_paired(folder, variant, *, threads=None, paired_pixels=0):
    session = PairedSession(folder / variant.file, threads=threads)
    session.runs_at_once = 2
    return session


def run_forever(engine: Engine) -> None:
    link = engine.connect()
    while True:
        link.run(request())


def test_engine_process_answers_like_the_session_inside(start_engine, tmp_path, scene):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)
    assert engine.pid != os.getpid()
    metadata = engine._metadata
    session = OnnxSession(tmp_path / "tiny" / "1" / "model.onnx", threads=1)
    inside, outside = (Segmenter(metadata, each).segment(scene) for each in (session, engine.connect()))
    np.testing.assert_array_equal(inside.id_map, outside.id_map)
    assert inside.segments == outside.segments


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (10, 7)])
@pytest.mark.parametrize(("kind", "confidence"), [("instance", False), ("semantic", False), ("semantic", True)])
def test_engine_has_room_for_every_canvas_of_every_kind(start_engine, tiny, tmp_path, kind, confidence, size):
    engine = start_engine(kind=kind, confidence=confidence, geometry=tiny.SHORTEST_EDGE)
    wait_until(lambda: engine.is_ready)
    image = np.random.default_rng(0).integers(0, 3, (*size, 3), np.uint8)
    session = OnnxSession(tmp_path / "tiny" / "1" / "model.onnx", threads=1)
    inside, outside = (Segmenter(engine._metadata, each).segment(image) for each in (session, engine.connect()))
    assert len(inside.segments) >= 3
    assert inside.segments == outside.segments


def test_results_stay_valid_after_the_next_run(start_engine):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)
    link = engine.connect()
    first = link.run(request())
    link.run(request() | {"image": np.zeros((1, 32, 32, 3), np.uint8)})
    assert (first["id_map"] == 7).all()


def test_threads_may_share_an_engine(start_engine):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)
    links = [engine.connect(), engine.connect()]

    def answers_are_right(value: int) -> bool:
        inputs = request() | {"image": np.full((1, 32, 32, 3), value, np.uint8)}
        return all((links[value % 4 // 2].run(inputs)["id_map"] == value).all() for _ in range(20))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(answers_are_right, (3, 5, 7, 9)))


def test_the_time_of_two_runs_at_once_is_counted_once(start_engine):
    recorder = Recorder()
    engine = start_engine(opener=open_paired, observer=recorder, max_batch=1)
    wait_until(lambda: engine.is_ready)
    links = [engine.connect() for _ in range(4)]
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda link: [link.run(request()) for _ in range(5)], links))
    took = time.monotonic() - began
    wait_until(lambda: len(recorder.runs) == 20)
    busy = sum(run.seconds for run in recorder.runs)
    assert busy <= took < 2.0  # 20 runs of 0.1 s
    assert busy > 0.9
    wait_until(lambda: engine.seconds_per_canvas > 0)
    assert engine.seconds_per_canvas < 0.07


def test_killed_engine_fails_its_request_and_comes_back(start_engine):
    engine = start_engine(work=10)
    wait_until(lambda: engine.is_ready)
    pid = engine.pid
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(EngineDownError):
        run_forever(engine)
    with pytest.raises(EngineDownError, match="tiny/1"):  # at once, not after a wait
        engine.connect().run(request())
    wait_until(lambda: engine.is_ready and engine.pid != pid)
    assert (engine.connect().run(request())["id_map"] == 7).all()


def test_hung_engine_is_ended_and_comes_back(start_engine):
    engine = start_engine(timeout_s=2.0)
    wait_until(lambda: engine.is_ready)
    pid = engine.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineDownError, match="ended"):
        engine.connect().run_timed(request(), Ticket(30))
    wait_until(lambda: engine.is_ready and engine.pid != pid)
    assert (engine.connect().run(request())["id_map"] == 7).all()


def test_signals_that_reach_the_whole_group_do_not_end_the_process(start_engine):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)
    pid = engine.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert (engine.connect().run(request())["id_map"] == 7).all()
    assert engine.pid == pid


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted on Linux alone")
def test_links_that_have_ended_leave_no_file_open_in_the_process(start_engine):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)

    def use_a_link() -> None:
        link = engine.connect()
        link.run(request())
        link.close()

    def num_files() -> int:
        return len(list(Path(f"/proc/{engine.pid}/fd").iterdir()))

    use_a_link()
    before = num_files()
    for _ in range(8):
        use_a_link()
    time.sleep(1)  # in which the process hears that the last one has ended
    assert num_files() <= before + 2


def test_an_engine_comes_back_after_a_time_without_file_descriptors(start_engine, monkeypatch):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)
    failures = fail_once(monkeypatch, engine_module)
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: failures and engine.is_ready, 60)
    assert (engine.connect().run(request())["id_map"] == 7).all()


def test_failure_of_one_run_leaves_the_process_alive(start_engine, tiny):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)
    pid = engine.pid
    with pytest.raises(ServiceError, match="the model failed"):
        engine.connect().run(request() | {"image": np.full((1, 32, 32, 3), tiny.FAILING_RED, np.uint8)})
    assert (engine.connect().run(request())["id_map"] == 7).all()
    assert engine.pid == pid


def test_graph_that_cannot_be_loaded_is_told(start_engine, tiny, tmp_path):
    metadata = tiny.write_artifact(tmp_path / "bad")
    folder = tmp_path / "bad" / "tiny" / "1"
    (folder / "model.onnx").write_bytes(b"not a graph")
    engine = Engine(metadata, folder, metadata.variants)
    engine.start()
    try:
        wait_until(lambda: "cannot load" in engine.state)
        with pytest.raises(EngineDownError, match="cannot load"):
            engine.connect().run(request())
    finally:
        engine.close()


def test_request_larger_than_the_shared_memory_is_refused(start_engine):
    engine = start_engine()
    wait_until(lambda: engine.is_ready)
    with pytest.raises(ValueError, match="shared memory"):
        engine.connect().run(request(side=1000))
    assert (engine.connect().run(request())["id_map"] == 7).all()


def test_closed_engine_leaves_no_process(start_engine, tiny, tmp_path):
    metadata = tiny.write_artifact(tmp_path / "other")
    engine = Engine(metadata, tmp_path / "other" / "tiny" / "1", metadata.variants)
    engine.start()
    wait_until(lambda: engine.is_ready)
    pid = engine.pid
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_next_variant_is_taken_when_one_cannot_be_loaded(tiny, tmp_path, monkeypatch, caplog):
    metadata = tiny.write_artifact(tmp_path)
    folder = tmp_path / "tiny" / "1"
    (folder / "bad.onnx").write_bytes(b"not a graph")
    good = metadata.variants[0]
    bad = good.model_copy(update={"file": "bad.onnx", "precision": "fp16", "sha256": file_sha256(folder / "bad.onnx")})
    # A server that another test started may have set up the project's loggers, and turned off those that it found.
    logger = logging.getLogger("knet.engine")
    monkeypatch.setattr(logger, "disabled", False)
    caplog.set_level(logging.WARNING, logger=logger.name)
    logger.addHandler(caplog.handler)
    engine = Engine(metadata, folder, [bad, good], EngineOptions(threads=1))
    engine.start()
    try:
        wait_until(lambda: engine.is_ready)
        assert engine.variant == good
        assert (engine.connect().run(request())["id_map"] == 7).all()
    finally:
        engine.close()
        logger.removeHandler(caplog.handler)
    assert any("not with onnxruntime-fp16: ONNX Runtime cannot load" in message for message in caplog.messages)


def test_a_graph_whose_file_was_changed_is_not_run(tiny, tmp_path):
    metadata = tiny.write_artifact(tmp_path)
    folder = tmp_path / "tiny" / "1"
    other = tiny.write_artifact(tmp_path / "other", stride=2)
    (folder / "model.onnx").write_bytes((tmp_path / "other" / "tiny" / "1" / other.variants[0].file).read_bytes())
    engine = Engine(metadata, folder, metadata.variants, EngineOptions(threads=1))
    engine.start()
    try:
        wait_until(lambda: "sha256" in engine.state)
        assert not engine.is_ready
        with pytest.raises(EngineDownError, match="sha256"):
            engine.connect()
    finally:
        engine.close()


def test_a_process_that_takes_too_much_memory_is_started_anew(tiny, tmp_path):
    metadata = tiny.write_artifact(tmp_path)
    restarts = []

    class Counter(Observer):
        def restarted(self) -> None:
            restarts.append(1)

    options = EngineOptions(threads=1, memory_bytes=1_000_000)
    engine = Engine(metadata, tmp_path / "tiny" / "1", metadata.variants, options, observer=Counter())
    engine.start()
    try:
        wait_until(lambda: restarts)
        assert "the limit is 1,000,000" in engine.state or engine.is_ready
    finally:
        engine.close()
