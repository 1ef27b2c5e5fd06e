"""Makes the examples of the API's documentation: `python tests/service/example_calls.py`, from the root.

They are what a server with the tiny artifact answers to a small image; a test compares them with what it answers now.
"""

import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

FILE = Path(__file__).parents[2] / "service" / "examples.json"
ROUTE = "/v1/models/tiny/segment"


def picture() -> bytes:
    """An image of 16 x 12 pixels; the values of red are slots of the tiny graph."""
    image = np.full((12, 16, 3), 12, np.uint8)
    image[2:8, 3:9, 0] = 7
    image[4:6, 5:7, 0] = 12
    image[7:11, 10:15, 0] = 3
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def collect(http: httpx.Client, image: bytes) -> dict[str, Any]:
    """Each example by its name, of the image file."""
    text = base64.b64encode(image).decode()
    one, several = {"image": text}, {"images": [text, "not base64"]}
    v2_request = {
        "id": "7",
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}],
        "parameters": {"task": "instance"},
    }
    found = {
        "image_in_json": one,
        "images_in_json": several,
        **{form: http.post(ROUTE, content=image, params={"format": form}).json() for form in ("rle", "polygon", "png")},
        "huggingface": http.post(ROUTE, content=image, params={"format": "huggingface"}).json(),
        "several_images": http.post(ROUTE, json=several).json(),
        "models": http.get("/v1/models").json(),
        "model": http.get("/v1/models/tiny").json(),
        "v2_request": v2_request,
        "v2_answer": http.post("/v2/models/tiny/infer", json=v2_request).json(),
        "problem_400": http.post(ROUTE, json={}).json(),
        "problem_404": http.get("/v1/models/cats").json(),
        "problem_406": http.post(ROUTE, content=image, headers={"Accept": "text/csv"}).json(),
        "problem_415": http.post(ROUTE, content=b"no image").json(),
        "problem_422": http.post(ROUTE, content=image, params={"score_threshold": 2}).json(),
    }
    return dict(steady(found))


def steady(value: Any) -> Any:
    """The value with what differs from call to call made the same: times and request ids."""
    if isinstance(value, dict):
        return {
            key: dict.fromkeys(entry, 1.25) if key == "timing_ms"
            else "5f1c0d6e1c3f4a4cbb3f9c5a3a4f7d10" if key == "request_id" else steady(entry)
            for key, entry in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [steady(entry) for entry in value]
    if isinstance(value, str) and '"timing_ms"' in value:
        return json.dumps(steady(json.loads(value)), separators=(",", ":"))
    return value


def main() -> None:
    """Write the file."""
    sys.path[:0] = [str(Path(__file__).parent), str(FILE.parents[1])]
    import tiny_artifact

    from knet.client import KNetClient
    from service.server import background
    from service.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        tiny_artifact.write_artifact(Path(folder), version="1")
        with background(Settings(repository=Path(folder), port=0)) as url, KNetClient(url) as client:
            client.wait_ready(120)
            with httpx.Client(base_url=url, timeout=60) as http:
                found = collect(http, picture())
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
