"""Requests that wait: for places, for the engine, no longer than they may, and together."""

import concurrent.futures
import contextlib
import gc
import socket
import time

import httpx

from service.server import background
from service.settings import Settings
from tests.service.driving import ROUTE, metric, post, wait_for, wait_ready


def test_full_queue_says_when_to_come_back(slow_repository, posted):
    settings = Settings(repository=slow_repository, port=0, max_queue=2, max_images=2, engine_threads=1)
    with background(settings) as url, concurrent.futures.ThreadPoolExecutor(5) as pool:
        wait_ready(url)
        responses = list(pool.map(lambda _: post(url, posted), range(5)))
        codes = sorted(response.status_code for response in responses)
        assert codes == [200, 200, 503, 503, 503]
        refused = next(response for response in responses if response.status_code == 503)
        assert refused.json()["type"] == "urn:knet:problem:queue-full"
        assert refused.headers["retry-after"] == "1"
        assert post(url, posted).status_code == 200


def test_one_client_leaves_places_to_others(slow_repository, posted):
    settings = Settings(repository=slow_repository, port=0, max_queue=4, max_images=2, max_queue_per_client=2)
    with background(settings) as url, concurrent.futures.ThreadPoolExecutor(5) as pool:
        wait_ready(url)
        neighbour = httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=60)
        mine = [pool.submit(post, url, posted) for _ in range(4)]
        refused = next(job.result() for job in concurrent.futures.as_completed(mine))  # before any can be done
        assert neighbour.post(url + ROUTE, content=posted).status_code == 200
        assert sorted(job.result().status_code for job in mine) == [200, 200, 429, 429]
        assert refused.json()["type"] == "urn:knet:problem:client-limit"
        assert refused.headers["retry-after"] == "1"
        assert 'knet_refusals_total{cause="client-limit"} 2.0' in httpx.get(f"{url}/metrics").text
        assert post(url, posted).status_code == 200


def test_clients_are_told_apart_by_their_keys(slow_repository, posted):
    keys = ["a key of somebody", "the key of another"]
    settings = Settings(
        repository=slow_repository, port=0, api_keys=keys, max_queue=4, max_images=1, max_queue_per_client=1
    )
    with background(settings) as url, concurrent.futures.ThreadPoolExecutor(4) as pool:
        wait_for(lambda: httpx.get(f"{url}/readyz"), lambda response: response.status_code == 200)
        headers = [{"Authorization": f"Bearer {key}"} for key in keys for _ in range(2)]
        jobs = [pool.submit(httpx.post, url + ROUTE, content=posted, headers=each, timeout=60) for each in headers]
        codes = [job.result().status_code for job in jobs]
        assert sorted(codes[:2]) == sorted(codes[2:]) == [200, 429]


def test_deadline_passes_at_its_time_and_the_work_is_left_out(slow_repository, posted):
    settings = Settings(repository=slow_repository, port=0, engine_threads=1, max_batch=1)
    with background(settings) as url, concurrent.futures.ThreadPoolExecutor(4) as pool:
        wait_ready(url)
        first = pool.submit(post, url, posted)
        wait_for(lambda: metric(url, "knet_in_flight"), lambda value: value == 1)
        time.sleep(0.2)  # until it has been decoded and runs
        late = [pool.submit(httpx.post, f"{url}{ROUTE}?timeout_ms=100", content=posted, timeout=60) for _ in range(3)]
        for response in [future.result() for future in late]:
            assert response.status_code == 504
            assert response.json()["type"] == "urn:knet:problem:deadline-passed"
            assert "0.1 s" in response.json()["detail"]
        assert first.result().status_code == 200
        assert post(url, posted).status_code == 200
        assert metric(url, "knet_batch_size_sum") == 2  # of five requests, two were run


def test_errors_that_come_after_the_deadline_are_no_errors_in_the_log(repository, posted, caplog):
    with background(Settings(repository=repository, port=0)) as url:
        wait_ready(url)
        for _ in range(50):
            assert httpx.post(url + ROUTE, content=posted, params={"timeout_ms": 1}).status_code in (200, 504)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_client_that_leaves_cancels_its_work(slow_repository, posted):
    settings = Settings(repository=slow_repository, port=0, engine_threads=1, max_batch=1)
    with background(settings) as url, concurrent.futures.ThreadPoolExecutor(1) as pool:
        wait_ready(url)
        host, port = url.removeprefix("http://").split(":")
        for _ in range(3):
            before = pool.submit(post, url, posted)
            wait_for(lambda: metric(url, "knet_in_flight"), lambda value: value == 1)
            time.sleep(0.2)  # until it has been decoded and runs
            with socket.create_connection((host, int(port))) as client:
                head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(posted)}\r\n\r\n"
                client.sendall(head.encode() + posted)
                wait_for(lambda: metric(url, "knet_in_flight"), lambda value: value == 2)
            wait_for(lambda: metric(url, "knet_in_flight"), lambda value: value < 2)
            assert before.result().status_code == 200
        assert post(url, posted).status_code == 200
        assert metric(url, "knet_batch_size_sum") == 4  # and nothing for those that left


def test_a_client_that_has_begun_its_next_request_keeps_its_place(slow_repository, posted):
    settings = Settings(
        repository=slow_repository, port=0, engine_threads=1, max_connections=4, head_timeout_s=0.3, max_batch=1
    )
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(posted)}\r\n\r\n".encode()
    with background(settings) as url, contextlib.ExitStack() as stack:
        wait_ready(url)
        host, port = url.removeprefix("http://").split(":")

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection((host, int(port)), timeout=60))

        client = connect()
        client.sendall((head + posted) * 2 + b"GET / HT")
        time.sleep(0.1)  # until it has been read
        for _ in range(10):
            connect()
        received = b""
        while piece := client.recv(65536):
            received += piece
        assert received.count(b"HTTP/1.1 200") == 2


def test_one_bad_image_in_a_batch_fails_alone(tiny, slow_repository, posted, scene, png):
    bad = scene.copy()
    bad[5, 5, 0] = tiny.FAILING_RED
    files = [posted, png(bad), posted, posted]
    with (
        background(Settings(repository=slow_repository, port=0, engine_threads=1)) as url,
        concurrent.futures.ThreadPoolExecutor(5) as pool,
    ):
        wait_ready(url)
        first = pool.submit(post, url, posted)  # while it runs, the others become one batch
        wait_for(lambda: metric(url, "knet_in_flight"), lambda value: value == 1)
        time.sleep(0.2)  # until it has been decoded and runs
        codes = [response.status_code for response in pool.map(lambda data: post(url, data), files)]
        assert codes == [200, 500, 200, 200]
        assert first.result().status_code == 200


def test_images_that_wait_are_run_as_one_batch(slow_repository, posted):
    with (
        background(Settings(repository=slow_repository, port=0, engine_threads=1)) as url,
        concurrent.futures.ThreadPoolExecutor(5) as pool,
    ):
        wait_ready(url)
        answers = list(pool.map(lambda _: post(url, posted), range(5)))
        assert {response.status_code for response in answers} == {200}
        assert len({str(response.json()["segments"]) for response in answers}) == 1
        assert metric(url, "knet_batch_size_sum") == 5
        assert metric(url, "knet_batch_size_count") <= 3
