"""Latency against load of a server that batches: what a queueing model says, and a simulation of the same server.

The server is `service/batcher.py`'s: an engine that becomes free takes what waits, up to a limit, and waits for
nothing. Images come at random (Poisson). A run of k images takes a fixed time, which may depend on k. It is the bulk
queue M/D[1,b]/1; the number that waits when a run ends is a Markov chain, whose stationary distribution gives the
latency of an image without any further approximation than a grid for its time of arrival within a run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import poisson

_TAIL = 1e-10  # of probability that is left out
_GRID = 40  # times of arrival within a run


@dataclass(frozen=True, kw_only=True)
class Latency:
    """From an image's arrival to the end of its run, in seconds: values and their probabilities, ascending."""

    seconds: NDArray[np.float64]
    probability: NDArray[np.float64]
    batch: float  # mean number of images of a run
    busy: float  # share of the time in which the engine runs
    waiting: float  # mean number of images that wait, those that run not counted

    @property
    def mean(self) -> float:
        """Mean latency."""
        return float(self.seconds @ self.probability)

    def percentile(self, percent: float) -> float:
        """Latency that so many per cent of the images do not exceed."""
        return float(self.seconds[np.searchsorted(self.probability.cumsum(), percent / 100)])


def capacity(run_s: Sequence[float]) -> float:
    """Images a second that cannot be reached; `run_s[k - 1]` is the time of a run of k images."""
    return len(run_s) / run_s[-1]


def model(rate: float, run_s: Sequence[float]) -> Latency:
    """Latency of images that come at `rate` a second.

    Args:
        rate: mean number of images a second.
        run_s: seconds of a run of 1, 2, ... images; its length is the most that a run takes.

    Raises:
        ValueError: the rate is not between 0 and the capacity.
    """
    if not 0 < rate < capacity(run_s):
        raise ValueError(f"rate is {rate:g}; legal: above 0 and below {capacity(run_s):g} images a second")
    limit = len(run_s)
    left = _left_after_a_run(rate, run_s)
    sizes = np.clip(np.arange(len(left)), 1, limit)  # with nobody there, the next image is run alone
    durations = np.asarray(run_s)[sizes - 1]
    cycle = left @ durations + left[0] / rate  # mean time from the end of a run to the end of the next
    seconds, weights = [np.array([run_s[0]])], [left[:1]]  # of the images that find nobody
    for size in range(1, limit + 1):
        behind = left[limit:] if size == limit else left[sizes == size].sum(keepdims=True)
        of_run, weight = _of_arrivals_in_a_run(rate, run_s, run_s[size - 1], behind)
        seconds.append(of_run)
        weights.append(weight * rate * run_s[size - 1])
    all_seconds, all_weights = np.concatenate(seconds), np.concatenate(weights)
    order = np.argsort(all_seconds, kind="stable")
    probability = all_weights[order] / all_weights.sum()
    in_system = rate * float(all_seconds[order] @ probability)  # Little's law
    return Latency(
        seconds=all_seconds[order],
        probability=probability,
        batch=float(left @ sizes),
        busy=float(left @ durations / cycle),
        waiting=float(in_system - left @ (sizes * durations) / cycle),
    )


def _left_after_a_run(rate: float, run_s: Sequence[float]) -> NDArray[np.float64]:
    """Distribution of the number of images that wait when a run ends."""
    limit, states = len(run_s), 64
    while True:
        transitions = np.zeros((states, states))
        for waiting in range(states):
            size = min(max(waiting, 1), limit)
            kept = max(waiting - limit, 0)
            arrivals = poisson.pmf(np.arange(states - kept), rate * run_s[size - 1])
            transitions[waiting, kept:] = arrivals
            transitions[waiting, -1] += 1 - arrivals.sum()
        equations = np.vstack([transitions.T - np.eye(states), np.ones(states)])
        distribution = np.linalg.lstsq(equations, np.append(np.zeros(states), 1.0), rcond=None)[0].clip(0)
        if distribution[-1] < _TAIL or states >= 4096:
            return distribution / distribution.sum()
        states *= 2


def _of_arrivals_in_a_run(
    rate: float, run_s: Sequence[float], duration: float, behind: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latencies of images that come while a run of `duration` goes on; their weights have the sum of `behind`.

    `behind[n]` is the probability that the run has left n images waiting.
    """
    limit = len(run_s)
    most = int(poisson.ppf(1 - _TAIL, rate * duration)) + 1
    seconds, weights = [], []
    for since_start in (np.arange(_GRID) + 0.5) / _GRID * duration:
        ahead = np.convolve(behind, poisson.pmf(np.arange(most + 1), rate * since_start))
        place = np.arange(len(ahead)) % limit  # in its own run
        wait = duration - since_start + np.arange(len(ahead)) // limit * run_s[-1]  # full runs go before it
        for taken in range(1, limit + 1):  # its own run takes those that come behind it, as far as there is room
            followers = taken - 1 - place
            chance = poisson.pmf(followers, rate * wait) if taken < limit else poisson.sf(followers - 1, rate * wait)
            possible = followers >= 0
            seconds.append((wait + run_s[taken - 1])[possible])
            weights.append((ahead * chance)[possible] / _GRID)
    return np.concatenate(seconds), np.concatenate(weights)


def simulate(
    rate: float, run_s: Sequence[float], *, images: int, servers: int = 1, seed: int = 0
) -> NDArray[np.float64]:
    """Latencies in seconds of so many images, one after the other as they come, by playing what the server does.

    With several `servers` each image goes to the one with the fewest images, as a balancer sends it.
    """
    arrivals = np.random.default_rng(seed).exponential(1 / rate, images).cumsum()
    latencies = np.empty(images)
    queues: list[list[int]] = [[] for _ in range(servers)]  # images that wait
    running: list[list[int]] = [[] for _ in range(servers)]
    ends = [math.inf] * servers  # of what runs
    number = 0
    while number < images or any(running):
        now = arrivals[number] if number < images else math.inf
        first = min(range(servers), key=ends.__getitem__)
        if ends[first] <= now:
            now = ends[first]
            latencies[running[first]] = now - arrivals[running[first]]
            running[first], ends[first] = [], math.inf
            changed = first
        else:
            changed = min(range(servers), key=lambda s: len(queues[s]) + len(running[s]))
            queues[changed].append(number)
            number += 1
        if queues[changed] and not running[changed]:
            running[changed], queues[changed] = queues[changed][: len(run_s)], queues[changed][len(run_s) :]
            ends[changed] = now + run_s[len(running[changed]) - 1]
    return latencies
