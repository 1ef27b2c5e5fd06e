import asyncio
import http.server
import inspect
import json
import subprocess
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from knet.client import AsyncKNetClient, KNetClient, KNetError, decode_mask, id_map_of

KEY = "a key of 16 bytes"


@pytest.fixture
def client(nuclei_server):
    with KNetClient(nuclei_server, api_key=KEY) as client:
        yield client


def test_masks_of_an_answer_are_those_of_the_image(client, image_path):
    red = np.asarray(Image.open(image_path))[..., 0]
    answer = client.segment(image_path)
    for segment, value in zip(answer["segments"], (7, 3, 12), strict=True):
        np.testing.assert_array_equal(decode_mask(segment), red == value)


def test_wishes_reach_the_server(client, image_path):
    answer = client.segment(
        image_path.read_bytes(), version="1", task="instance", score_threshold=0.7, categories=["nucleus"]
    )
    assert (answer["version"], answer["task"], len(answer["segments"])) == ("1", "instance", 1)
    assert "png" in client.segment(image_path, format="png")


def test_models_are_listed(client):
    assert [model["name"] for model in client.models()] == ["nuclei"]


def test_errors_carry_the_servers_words(client, image_path):
    with pytest.raises(KNetError, match="there is nuclei") as caught:
        client.segment(image_path, model="cats")
    assert (caught.value.status, caught.value.title) == (404, "Not found")
    assert caught.value.request_id
    with pytest.raises(KNetError, match="Image format not supported"):
        client.segment(b"no image")


def test_a_wrong_key_is_told(nuclei_server):
    with KNetClient(nuclei_server, api_key="wrong") as client, pytest.raises(KNetError, match="API key") as caught:
        client.models()
    assert caught.value.status == 401


def test_a_server_that_is_not_there_is_told():
    with KNetClient("http://127.0.0.1:1") as client:
        with pytest.raises(KNetError, match=r"cannot reach http://127\.0\.0\.1:1") as caught:
            client.wait_ready(timeout=0.3)
        assert caught.value.status is None


@pytest.mark.parametrize("url", ["not a url", "127.0.0.1:8000", "http://", "http://127.0.0.1:port", "ftp://host"])
@pytest.mark.parametrize("client", [KNetClient, AsyncKNetClient])
def test_a_url_that_no_server_can_have_is_told_at_once(client, url):
    with pytest.raises(KNetError, match="legal: http://HOST:PORT"):
        client(url)


def test_client_needs_nothing_of_the_server():
    code = "import sys, knet.client; print(*sorted({'fastapi', 'cv2', 'onnxruntime', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_several_images_are_answered_in_one_request(client, image_path):
    one = client.segment(image_path)
    first, second, third = client.segment_many([image_path, b"no image", image_path.read_bytes()])
    for answer in (first, third):
        assert answer["segments"] == one["segments"]
    assert isinstance(second, KNetError)
    assert (second.status, second.title) == (415, "Image format not supported")
    assert second.request_id in str(second)
    (only,) = client.segment_many([image_path])
    assert only["segments"] == one["segments"]
    (only,) = client.segment_many([b""])
    assert only.status == 422


@pytest.mark.parametrize("form", ["rle", "polygon", "overlay"])
def test_ids_at_each_pixel_are_those_of_the_segments(client, image_path, form):
    red = np.asarray(Image.open(image_path))[..., 0]
    answer = client.segment(image_path, format=form)
    ids = id_map_of(answer)
    assert ids.dtype == np.int32
    for segment, value in zip(answer["segments"], (7, 3, 12), strict=True):
        np.testing.assert_array_equal(ids == segment["id"], red == value)
        np.testing.assert_array_equal(decode_mask(segment, answer["image"]), red == value)


def test_the_best_of_overlapping_masks_is_on_top():
    masks = ["02", "11"]
    segments = [{"id": i + 1, "segmentation": {"size": [1, 2], "counts": counts}} for i, counts in enumerate(masks)]
    assert id_map_of({"image": {"height": 1, "width": 2}, "segments": segments}).tolist() == [[1, 1]]


def test_polygons_need_the_size_of_the_image(client, image_path):
    (segment, *_) = client.segment(image_path, format="polygon")["segments"]
    with pytest.raises(ValueError, match=r'answer\["image"\]'):
        decode_mask(segment)
    with pytest.raises(ValueError, match="ask for rle or polygon"):
        id_map_of(client.segment(image_path, format="png"))


def test_hugging_face_answer_is_a_list(client, image_path):
    assert [entry["label"] for entry in client.segment(image_path, format="huggingface")][:1] == ["nucleus"]


async def everything(url, image_path):
    async with AsyncKNetClient(url, api_key=KEY) as client:
        await client.wait_ready()
        answers = await asyncio.gather(*(client.segment(image_path, task="instance") for _ in range(4)))
        many = await client.segment_many([image_path, b""])
        return answers, many, await client.models(), await client.model("nuclei")


def test_asynchronous_client_has_the_same_answers(client, nuclei_server, image_path):
    answers, (one, bad), models, model = asyncio.run(everything(nuclei_server, image_path))
    expected = client.segment(image_path, task="instance")["segments"]
    assert [answer["segments"] for answer in answers] == [expected] * 4
    assert one["segments"] == client.segment(image_path)["segments"]
    assert bad.status == 422
    assert models == client.models()
    assert model == client.model("nuclei")


def test_both_clients_have_the_same_surface():
    def surface(kind):
        public = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
        return {name: str(inspect.signature(value)) for name, value in public.items()}

    assert surface(KNetClient) == surface(AsyncKNetClient)


def test_asynchronous_errors_carry_the_servers_words(nuclei_server):
    async def fail():
        async with AsyncKNetClient(nuclei_server, api_key=KEY) as client:
            await client.segment(b"no image")

    with pytest.raises(KNetError, match="Image format not supported") as caught:
        asyncio.run(fail())
    assert caught.value.request_id


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers with the class's replies in turn: a status and its Retry-After, or nothing at all."""

    replies: ClassVar[list] = []

    def do_GET(self):
        status, retry_after = self.replies.pop(0)
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        body = json.dumps({"models": []}).encode() if status == 200 else b"busy"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    """URL of a server that answers as it is told, and the list of what it still has to answer."""
    Refusing.replies = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Refusing.replies
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Pauses of the client, which are not slept."""
    taken: list[float] = []
    monkeypatch.setattr("knet.client.time.sleep", taken.append)
    return taken


def test_a_busy_server_is_asked_again_when_it_says(refusing, pauses):
    url, replies = refusing
    replies += [(503, "3"), (429, None), (200, None)]
    with KNetClient(url) as client:
        assert client.models() == []
    first, second = pauses
    assert 3.1 < first < 3.4
    assert 0.25 <= second <= 0.75  # 0.5, within a half


def test_a_lost_connection_is_tried_again(refusing, pauses):
    url, replies = refusing
    replies += [(None, None), (200, None)]
    with KNetClient(url) as client:
        assert client.models() == []
    assert len(pauses) == 1


def test_attempts_are_bounded_and_only_made_where_there_is_use(refusing, pauses):
    url, replies = refusing
    for answers, status, count in (
        ([(503, None)] * 9, 503, 2),
        ([(503, "3600")], 503, 0),  # longer than anyone waits
        ([(500, None)], 500, 0),
        ([(404, None)], 404, 0),
        ([(None, None)] * 9, None, 2),
    ):
        replies[:], pauses[:] = answers, []
        with KNetClient(url) as client, pytest.raises(KNetError) as caught:
            client.models()
        assert (caught.value.status, len(pauses)) == (status, count)


def test_names_are_quoted(client):
    with pytest.raises(KNetError, match="there is no model a\\?b") as caught:
        client.model("a?b")
    assert caught.value.status == 404
