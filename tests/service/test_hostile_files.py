"""5,000 files made from real ones by mutation, and some made by hand: refused or decoded, never more."""

import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

DECODE_ALL = Path(__file__).with_name("decode_all.py")
ROUTE = "/v1/models/tiny/segment"


def decode_all(*arguments: str) -> dict:
    """Decode in a process with limits on memory and processor time: a crash or a limit reached fails."""
    done = subprocess.run([sys.executable, DECODE_ALL, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["grown_mb"] < 100
    assert summary["threads"] == 1
    return summary["outcomes"]


def check_mutants(count: int, seed: int) -> None:
    outcomes = decode_all("mutants", str(count), str(seed))
    assert set(outcomes) <= {"image", "undecodable-image", "unsupported-image", "image-too-large"}
    assert sum(outcomes.values()) == count
    assert outcomes["image"] > count / 20  # else the mutations would not get far
    assert outcomes["undecodable-image"] > count / 20


def test_some_hostile_files():
    check_mutants(500, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_five_thousand_hostile_files(seed):
    check_mutants(5000, seed)


@pytest.fixture(scope="module")
def bombs(load_module):
    return load_module(Path(__file__).with_name("image_bombs.py"))


@pytest.fixture(scope="module")
def hostile(load_module):
    return load_module(Path(__file__).with_name("hostile_files.py"))


def test_small_files_that_would_cost_much_are_refused_and_harmless_ones_are_not(bombs):
    outcomes = decode_all("bombs")
    for name in bombs.REFUSED:
        assert outcomes[name] != "image", name
    for name in bombs.TAKEN:
        assert outcomes[name] == "image", name


def test_hostile_files_do_not_disturb_a_server(server, hostile, scene, png):
    good = png(scene)
    with httpx.Client(base_url=server, timeout=60) as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
        expected = client.post(ROUTE, content=good).json()["segments"]

        def post(data: bytes) -> int:
            response = client.post(ROUTE, content=data)
            if response.status_code not in (200, 500):  # the tiny model itself fails on a red of 255
                assert response.headers["content-type"] == "application/problem+json"
            return response.status_code

        codes = set(pool.map(post, hostile.mutants(300, seed=3)))
        assert codes <= {200, 413, 415, 422, 500}
        assert {200, 422} <= codes
        assert client.post(ROUTE, content=good).json()["segments"] == expected
