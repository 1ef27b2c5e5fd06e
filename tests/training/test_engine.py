import os
import signal
import subprocess

import pytest
import torch

from training.engine import Devices, is_first_process, make_fabric
from training.provenance import git_state
from training.stop import Interrupted, StopRequest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "tpu"}, "accelerator is 'tpu'; legal: auto, cpu, cuda"),
        ({"devices": 0}, "devices is 0; legal: 1 and above"),
        ({"nodes": 0}, "nodes is 0; legal: 1 and above"),
    ],
)
def test_devices_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Devices(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_is_refused_and_auto_is_the_cpu():
    with pytest.raises(ValueError, match="no CUDA device; legal here: cpu"):
        Devices(accelerator="cuda")
    assert Devices().device_type == "cpu"


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match="legal on a CPU: fp32, bf16"):
        make_fabric(Devices(accelerator="cpu"), "fp16")


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),  # torchrun's
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
    ],
)
def test_the_first_process_knows_that_it_is(environment, is_first, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is is_first


def test_a_request_to_stop_is_noted_and_breaks_off_what_may_be_broken_off():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(Interrupted), stop.breaking_off():
            pytest.fail("not even begun")
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Interrupted), StopRequest() as stop, stop.breaking_off():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_interrupt_ends_the_program():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_git_state_names_the_commit_and_what_differs_from_it(tmp_path):
    assert git_state(tmp_path) is None

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "kept.txt").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "new.txt").write_text("2")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["changed_files"] == ["new.txt"]
