"""What tests do with the page, and what they expect it to say."""

import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

KEY = "a key that nobody guesses"  # of the locked server


def file_of(name: str, content: bytes, media_type: str = "image/png") -> dict[str, Any]:
    return {"name": name, "mimeType": media_type, "buffer": content}


def choose(page: Page, file: dict[str, Any]) -> None:
    page.get_by_label("Choose a photo").set_input_files(file)
    expect(page.get_by_role("status")).to_have_text(f"{file['name']} is ready.")


def segment(page: Page, file: dict[str, Any]) -> Locator:
    """The options of the list of segments."""
    choose(page, file)
    page.get_by_role("button", name="Segment").click()
    return found(page)


def found(page: Page) -> Locator:
    page.get_by_role("heading", level=2).wait_for()
    return page.get_by_role("listbox", name="Segments").get_by_role("option")


def ask(url: str, file: dict[str, Any], *, model: str = "tiny", **query: Any) -> dict:
    response = httpx.post(f"{url}/v1/models/{model}/segment", params=query, content=file["buffer"], timeout=60)
    response.raise_for_status()
    return response.json()


def words(segment: dict) -> str:
    score = [] if segment["score"] is None else ["score", f"{segment['score']:.2f}"]
    return " ".join([str(segment["id"]), segment["category"], *score, f"{segment['area']:,} px"])


def hover(page: Page, x: float, y: float, size: tuple[int, int]) -> Locator:
    """The note beside the pointer, over the middle of a pixel of an image (width, height)."""
    box = page.get_by_role("img", name=re.compile("^The photo")).bounding_box()
    page.mouse.move(box["x"] + (x + 0.5) / size[0] * box["width"], box["y"] + (y + 0.5) / size[1] * box["height"])
    return page.locator("#tip")


def read_image(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def download(page: Page, name: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()
