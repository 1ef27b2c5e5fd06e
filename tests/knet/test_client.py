import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from knet.client import KNetClient, KNetError, decode_mask

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
    with KNetClient("not a url") as client, pytest.raises(KNetError, match="cannot reach not a url"):
        client.models()


def test_client_needs_nothing_of_the_server():
    code = "import sys, knet.client; print(*sorted({'fastapi', 'cv2', 'onnxruntime', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
