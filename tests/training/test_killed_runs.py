"""Runs in processes of their own, which are killed, stopped, starved and divided."""

import os
import resource
import runpy
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from training.train_state import load_state

runs = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("runs.py"))))
start, finish, wait_for, rows_of, num_rows = runs.start, runs.finish, runs.wait_for, runs.rows_of, runs.num_rows


def test_a_killed_and_a_stopped_run_give_the_losses_of_an_uninterrupted_one(discs, tmp_path):
    settings = ("steps=30", "save_every=4", "workers=1")
    whole = start(discs, tmp_path / "whole", *settings)
    out = tmp_path / "killed"
    killed = start(discs, out, *settings)
    wait_for(lambda: num_rows(out) >= 6, killed)
    killed.send_signal(signal.SIGKILL)
    finish(killed, expected=-signal.SIGKILL)
    finish(whole)
    assert num_rows(out) < 30

    stopped = start(discs, out, *settings)
    done = num_rows(out)
    wait_for(lambda: num_rows(out) >= done + 3, stopped)
    stopped.send_signal(signal.SIGTERM)
    text = finish(stopped)
    state, _ = load_state(out)
    assert f"stopped at step {state['step']} of 30" in text
    assert state["step"] == num_rows(out) < 30  # nothing that was done is lost
    assert (out / "last" / "model.safetensors").exists()

    assert f"resuming {out} at step {state['step']}" in finish(start(discs, out, *settings))
    assert rows_of(out) == rows_of(tmp_path / "whole")


def test_two_processes_give_the_gradients_of_one(discs, tmp_path):
    settings = ("--gradients", "batch_size=2", "forced_seeds_until=0.9")
    processes = [start(discs, tmp_path / str(number), *settings, "--devices", str(number)) for number in (1, 2)]
    for process in processes:
        finish(process)
    for form in ("seeded", "panoptic", "instance", "semantic"):
        one, two = (torch.load(tmp_path / str(number) / f"{form}.pt") for number in (1, 2))
        largest = max(float(gradient.abs().max()) for gradient in one.values())
        for name, gradient in one.items():
            # float32 sums in another order
            torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=f"{form}: {name}")


def test_a_run_of_two_processes_ends_with_its_second_one(discs, tmp_path):
    out = tmp_path / "run"
    process = start(discs, out, "steps=500", "batch_norm=frozen", "--devices", "2")
    wait_for(lambda: num_rows(out) >= 1, process)
    (child,) = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
    os.kill(int(child), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)


def test_a_full_disk_is_reported_and_survived(discs, tmp_path):
    limited = tmp_path / "limited"

    def forbid_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))

    process = start(discs, limited, "steps=4", preexec_fn=forbid_large_files)
    text = finish(process, expected=1)
    assert text.count("Training goes on") >= 2
    assert "cannot write" in text
    assert "state.pt: the disk is full, or a limit of it reached" in text
    assert "what it gave could not be saved" in text
    assert num_rows(limited) == 4
    assert not list(limited.rglob("*.part"))


def test_a_killed_reader_ends_the_run_with_a_word(discs, tmp_path):
    out = tmp_path / "run"
    process = start(discs, out, "steps=2000", "workers=1", "save_every=1")
    wait_for(lambda: num_rows(out) >= 2, process)
    children = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
    os.kill(int(children[0]), signal.SIGKILL)
    text = finish(process, expected=1)
    assert "OSError: a process that reads the data was killed" in text
    assert load_state(out)[0]["step"] >= 1


def test_a_run_that_fails_ends_its_workers_at_once(discs, tmp_path):
    started = time.monotonic()
    # A rate at which the weights leave float32 in the second step.
    text = finish(start(discs, tmp_path, "steps=50", "workers=2", "warmup_steps=0", "learning_rate=1e30"), expected=1)
    assert "is not finite at step" in text
    assert time.monotonic() - started < 50  # SIGTERM would end them after a minute


def test_a_signal_to_all_processes_of_a_run_leaves_it_the_time_to_save(discs, tmp_path):
    process = start(discs, tmp_path, "steps=500", "workers=2", start_new_session=True)
    wait_for(lambda: num_rows(tmp_path) >= 1, process)
    os.killpg(process.pid, signal.SIGTERM)
    text = finish(process)
    step = load_state(tmp_path)[0]["step"]
    assert f"stopped at step {step} of 500" in text


def test_a_disk_that_was_full_for_a_while_is_forgotten(discs, tmp_path):
    process = start(discs, tmp_path, "steps=30", "evaluate_every=5")
    wait_for(lambda: num_rows(tmp_path) >= 1, process)
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    wait_for(lambda: num_rows(tmp_path) >= 7, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    assert "Training goes on" in finish(process)
    assert load_state(tmp_path)[0]["step"] == 30
