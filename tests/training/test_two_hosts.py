"""Runs on two "hosts": network namespaces with a cable between them, which is pulled, or one host is killed."""

import os
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from training.train_state import load_state

here = Path(__file__).parent
runs = SimpleNamespace(**runpy.run_path(str(here / "runs.py")))
hosts_of = SimpleNamespace(**runpy.run_path(str(here / "hosts.py")))
PORT = "29555"
SETTINGS = ("steps=12", "save_every=2", "batch_norm=frozen", "workers=1")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(hosts_of.why_not() is not None, reason=str(hosts_of.why_not())),
]


@pytest.fixture
def hosts():
    with hosts_of.two_hosts() as pair:
        yield pair


def own(program, rank, address):
    meeting = {"MASTER_ADDR": address, "MASTER_PORT": PORT, "NODE_RANK": str(rank)}
    return [sys.executable, *program, "--devices", "1", "--nodes", "2"], meeting


def torchrun(program, rank, address):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--nnodes", "2", "--node-rank", str(rank)]
    return [sys.executable, *launcher, "--master-addr", address, "--master-port", PORT, *program], {}


def slurm(program, rank, address):
    """As `srun` starts it: there is no Slurm here."""
    job = {"JOB_ID": "4711", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2", "NODELIST": address}
    job |= {"PROCID": str(rank), "NODEID": str(rank), "LOCALID": "0", "JOB_NAME": "train"}
    return [sys.executable, *program, "--devices", "1", "--nodes", "2"], {f"SLURM_{k}": v for k, v in job.items()}


def start_both(hosts, data, out, launcher, *settings, weights=None):
    program = [runs.PROGRAM, data, out, *(f"--set={setting}" for setting in settings)]
    program += ["--weights", weights] if weights else []
    started = []
    for rank, host in enumerate(hosts):
        command, environment = launcher([str(part) for part in program], rank, hosts[0].address)
        started.append(host.start(command, **environment))
    return started


@pytest.fixture(scope="module")
def whole(discs, tmp_path_factory):
    """The same run on one host: of one process, and of two."""
    out = tmp_path_factory.mktemp("whole")
    for number in ("1", "2"):
        runs.finish(runs.start(discs, out / number, *SETTINGS, "--devices", number))
    return out


def losses(out):
    return [[float(value or "nan") for value in row.values()] for row in runs.rows_of(out)]


@pytest.mark.parametrize("launcher", [own, torchrun, slurm])
def test_two_hosts_train_what_one_does(hosts, launcher, discs, whole, tmp_path):
    out = tmp_path / "run"
    started = start_both(hosts, discs, out, launcher, *SETTINGS, weights=tmp_path / "weights")
    for process in started:
        runs.finish(process)
    first, second = (torch.load(tmp_path / "weights" / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert runs.rows_of(out) == runs.rows_of(whole / "2")
    torch.testing.assert_close(  # sums in another order, and what the optimiser makes of that
        torch.tensor(losses(out)), torch.tensor(losses(whole / "1")), rtol=2e-2, atol=1e-3, equal_nan=True
    )


@pytest.mark.parametrize("launcher", [own, torchrun])
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_host_is_killed_the_other_ends_and_the_run_goes_on(hosts, launcher, victim, discs, whole, tmp_path):
    out = tmp_path / "run"
    started = start_both(hosts, discs, out, launcher, *SETTINGS)
    survivor = started[1 - victim]
    runs.wait_for(lambda: runs.num_rows(out) >= 5, survivor)
    hosts[victim].kill()
    killed = time.monotonic()
    text, _ = survivor.communicate(timeout=60)
    assert survivor.returncode == 1, text
    assert time.monotonic() - killed < 30
    assert f"process {victim} (on {os.uname().nodename}) is gone" in text
    assert "goes on from the last saved state" in text
    step = load_state(out)[0]["step"]
    assert 0 < step < 12

    texts = [runs.finish(process) for process in start_both(hosts, discs, out, launcher, *SETTINGS)]
    assert f"resuming {out} at step {step}" in texts[0]
    assert runs.rows_of(out) == runs.rows_of(whole / "2")


def test_a_host_that_cannot_be_reached_any_more_ends_the_run_on_both(hosts, discs, tmp_path):
    out = tmp_path / "run"
    started = start_both(hosts, discs, out, own, "steps=5000", "batch_norm=frozen")
    runs.wait_for(lambda: runs.num_rows(out) >= 2, started[0])
    hosts[1].unplug()
    for process, other in zip(started, (1, 0), strict=True):
        text, _ = process.communicate(timeout=60)  # nothing is heard for 30 s, and 5 s to end
        assert process.returncode == 1, text
        assert f"process {other} (on" in text
