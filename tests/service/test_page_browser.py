"""The page at `/` in headless Chromium, before a real server of tiny models."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from knet.client import KNetClient
from service import rle
from service.overlay import distinct_colour
from service.server import background
from service.settings import Settings

KEY = "a key that nobody guesses"
WAIT_MS = 60_000  # on processors that are busy with other work
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def kinds(tiny, tmp_path_factory) -> Iterator[str]:
    """URL of a server with a model of each kind."""
    folder = tmp_path_factory.mktemp("page")
    tiny.write_artifact(folder, version="2")
    tiny.write_artifact(folder, version="10", stride=2)
    tiny.write_artifact(folder, kind="instance", name="things")
    tiny.write_artifact(folder, kind="semantic", name="classes")
    with background(Settings(repository=folder, port=0)) as url:
        with KNetClient(url) as client:
            client.wait_ready(120)
        yield url


@pytest.fixture(scope="module")
def locked(tiny, tmp_path_factory) -> Iterator[str]:
    """URL of a server that wants a key."""
    folder = tmp_path_factory.mktemp("locked")
    tiny.write_artifact(folder)
    with background(Settings(repository=folder, port=0, api_keys=(KEY,))) as url:
        with KNetClient(url, api_key=KEY) as client:
            client.wait_ready(120)
        yield url


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # No sandbox, as test machines often have no unprivileged user namespaces; the page is our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Page]]:
    """Opens a URL; fails at the end if a page complained, broke its policy, or asked another server for anything."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_page(url: str, *, expected: str = "never", **options: Any) -> Page:
        page = browser.new_page(**options)
        pages.append(page)
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text)
                if message.type in ("error", "warning") and not re.search(expected, message.text)
                else None
            ),
        )
        origin = "/".join(url.split("/")[:3])
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((origin, "blob:", "data:")) else complaints.append(request.url)
            ),
        )
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def photo(scene, png) -> dict[str, Any]:
    return file_of("scene.png", png(scene))


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


def test_dropped_file_gives_the_segments_of_the_api(open_page, kinds, photo):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    drop = """([name, data]) => {
        const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, { type: "image/png" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [photo["name"], base64.b64encode(photo["buffer"]).decode()])
    expect(page.get_by_role("status")).to_have_text("scene.png is ready.")
    for task in ("panoptic", "instance", "semantic"):
        page.get_by_label("Task").select_option(task)
        page.get_by_role("button", name="Segment").click()
        segments = ask(kinds, photo, task=task)["segments"]
        expect(found(page)).to_have_text([words(one) for one in segments])
        assert page.get_by_role("heading", level=2).inner_text() == f"{len(segments)} segments"
        assert sum(int(text) for text in page.locator("#counts td:nth-child(2)").all_inner_texts()) == len(segments)


def test_pasted_file_is_taken(open_page, kinds, photo):
    page = open_page(kinds)
    paste = """([name, data]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name));
        document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
    }"""
    page.evaluate(paste, [photo["name"], base64.b64encode(photo["buffer"]).decode()])
    expect(page.get_by_role("status")).to_have_text("scene.png is ready.")


def test_pointer_shows_class_score_and_area(open_page, kinds, photo, scene):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    options = segment(page, photo)
    by_value = dict(zip((7, 3, 12), ask(kinds, photo)["segments"], strict=True))
    for x, y in ((10, 8), (5, 35), (0, 0)):
        one = by_value[scene[y, x, 0]]
        note = f"{one['category']} · score {one['score']:.2f} · {one['area']:,} px"
        expect(hover(page, x, y, (40, 50))).to_have_text(note)
    expect(hover(page, 30, 25, (40, 50))).to_be_hidden()  # void
    hover(page, 10, 8, (40, 50))
    page.mouse.down()
    page.mouse.up()
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")


def test_thresholds_version_and_categories_reach_the_server(open_page, kinds, photo):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    page.get_by_label("Version").select_option("2")
    page.get_by_label("Score threshold").fill("0.4")
    page.get_by_label("Overlap threshold").fill("0")
    page.get_by_text("Categories: all").click()
    page.get_by_role("checkbox", name="background").uncheck()
    expect(page.locator("summary")).to_have_text("Categories: 2 of 3")
    options = segment(page, photo)
    query = {"score_threshold": 0.4, "overlap_threshold": 0, "categories": "cell,nucleus"}
    segments = ask(kinds, photo, **query)["segments"]
    assert len(segments) == 3
    expect(options).to_have_text([words(one) for one in segments])
    assert page.locator("#result-facts").inner_text().startswith("tiny 2, panoptic, 40 ")

    page.get_by_role("button", name="None").click()
    page.get_by_role("button", name="Segment").click()
    expect(page.get_by_role("alert")).to_have_text("Choose one category at least.")
    page.get_by_role("button", name="All").click()
    page.get_by_label("Score threshold").fill("1.5")
    page.get_by_role("button", name="Segment").click()
    expect(page.get_by_role("alert")).to_have_text("The score threshold is a number from 0 to 1.")
    expect(page.get_by_label("Score threshold")).to_be_focused()


def test_keyboard_alone_does_it_all(open_page, kinds, photo):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    page.on("filechooser", lambda _: None)  # catches the browser's own dialog from now on; later may be too late
    tab_to(page, "#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(photo)
    expect(page.get_by_role("status")).to_have_text("scene.png is ready.")
    tab_to(page, "#task")
    page.keyboard.press("i")  # as in instance
    tab_to(page, "#submit")
    page.keyboard.press("Enter")
    options = found(page)
    expect(page.get_by_role("status")).to_have_text("2 segments found. The list of them follows.")
    tab_to(page, "#segments")
    expect(options.nth(0)).to_have_attribute("aria-selected", "true")
    first = words(ask(kinds, photo, task="instance")["segments"][0])
    assert " ".join(page.locator("#segments").evaluate(ACTIVE_TEXT).split()) == first
    expect(page.locator("#tip")).to_contain_text("nucleus · score 0.75")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Home")
    expect(options.nth(0)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#highlight")).to_be_hidden()
    assert page.locator("#segments").get_attribute("aria-activedescendant") is None


ACTIVE_TEXT = "box => document.getElementById(box.getAttribute('aria-activedescendant')).textContent"


def tab_to(page: Page, selector: str) -> None:
    """Presses Tab until it is there; each stop on the way must be visible."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.locator(selector).evaluate("element => element === document.activeElement"):
            element = page.locator("label[for=file]" if selector == "#file" else selector)
            assert element.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
            return
    pytest.fail(f"{selector} cannot be reached with Tab")


def test_axe_finds_nothing_before_and_after(open_page, kinds, photo):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    page.get_by_text("Categories: all").click()
    check_accessible(page)
    segment(page, photo)
    page.get_by_label("Actual size").check()
    page.locator("#segments").focus()
    check_accessible(page)
    choose(page, file_of("words.png", b"no image"))
    page.get_by_role("button", name="None").click()
    page.get_by_role("button", name="Segment").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    check_accessible(page)


def check_accessible(page: Page) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        violations = Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations] == []


def test_screen_reader_finds_names_roles_and_states(open_page, kinds, photo):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    segment(page, photo)
    tree = page.locator("body").aria_snapshot()
    for line in (
        'heading "K-Net Serve" [level=1]',
        'form "What to segment, and how"',
        'button "Choose a photo"',
        'combobox "Model"',
        'combobox "Version"',
        'combobox "Task"',
        'spinbutton "Score threshold"',
        'spinbutton "Overlap threshold"',
        'button "Segment"',
        "status: 3 segments found. The list of them follows.",
        'slider "Mask opacity": "70"',
        'checkbox "Actual size"',
        'group "Download"',
        'img "The photo with 3 segments"',
        'heading "3 segments" [level=2]',
        'table "Segments of each category"',
        'rowheader "nucleus"',
        'listbox "Segments"',
        'option "1 nucleus score 0.75 252 px"',
    ):
        assert line in tree, tree


def test_downloads_are_the_answer_the_picture_and_the_id_map(open_page, kinds, photo, scene):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    segment(page, photo)
    page.get_by_label("Mask opacity").fill("50")

    name, content = download(page, "JSON")
    assert name == "scene.json"
    answer, expected = json.loads(content), ask(kinds, photo)
    assert answer.pop("timing_ms").keys() == expected.pop("timing_ms").keys()
    assert answer == expected

    name, content = download(page, "Picture")
    picture = read_image(content)
    assert (name, picture.shape) == ("scene.overlay.png", scene.shape)
    np.testing.assert_array_equal(picture[25, 27], scene[25, 27])  # void
    opacity = 0.6 * 0.5  # of a thing's mask, and of all masks
    tinted = (1 - opacity) * scene[9, 11] + opacity * np.array(distinct_colour(2))
    np.testing.assert_allclose(picture[9, 11], tinted, atol=3)

    name, content = download(page, "Id-map")
    url = f"{kinds}/v1/models/tiny/segment?format=png"
    served = httpx.post(url, content=photo["buffer"], headers={"Accept": "image/png"})
    assert (name, content) == ("scene.ids.png", served.content)


def download(page: Page, name: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_masks_of_an_instance_model_overlap(open_page, kinds, png):
    image = np.full((64, 80, 3), 90, np.uint8)
    image[..., 0] = 0
    image[4:30, 6:40, 0] |= 1
    image[20:50, 30:70, 0] |= 2
    photo = file_of("overlapping.png", png(image))
    page = open_page(kinds)
    page.get_by_label("Model").select_option("things")
    expect(page.get_by_label("Overlap threshold")).to_be_hidden()
    options = segment(page, photo)
    segments = ask(kinds, photo, model="things")["segments"]
    expect(options).to_have_text([words(one) for one in segments])
    expect(hover(page, 35, 25, (80, 64))).to_contain_text(f"{segments[0]['category']} · score 0.90")  # the best of both
    expect(page.get_by_role("button", name="Id-map")).to_be_hidden()


def test_semantic_models_have_neither_thresholds_nor_scores(open_page, kinds, png):
    image = np.zeros((50, 40, 3), np.uint8)
    image[10:30, 10:30, 0] = 1
    page = open_page(kinds)
    page.get_by_label("Model").select_option("classes")
    expect(page.get_by_label("Score threshold")).to_be_hidden()
    expect(page.get_by_label("Overlap threshold")).to_be_hidden()
    segment(page, file_of("classes.png", png(image)))
    expect(hover(page, 20, 20, (40, 50))).to_have_text("cell · 400 px")


@pytest.mark.parametrize("form", ["tiff", "16 bit"])
def test_what_a_browser_cannot_show_is_drawn_by_the_server(open_page, kinds, scene, form):
    file = io.BytesIO()
    if form == "tiff":
        Image.fromarray(scene).save(file, "TIFF")
    else:
        scene[0, 0] = 100  # void; all are scaled by the bits of the largest
        Image.fromarray(scene[..., 0].astype(np.uint16) * 257).save(file, "PNG")
    photo = file_of("deep.image", file.getvalue(), "")
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    options = segment(page, photo)
    answer = ask(kinds, photo, format="overlay")
    expect(options).to_have_text([words(one) for one in answer["segments"]])
    expect(page.get_by_label("Mask opacity")).to_be_hidden()
    assert download(page, "Picture")[1] == base64.b64decode(answer["overlay"])
    x, y, *_ = answer["segments"][0]["bbox"]
    expect(hover(page, x + 1, y + 1, (40, 50))).to_contain_text(answer["segments"][0]["category"])
    page.get_by_role("button", name="Segment").click()  # again, where the picture is the server's already
    expect(page.get_by_role("status")).to_contain_text("segments found")
    expect(page.get_by_label("Mask opacity")).to_be_hidden()


def test_photo_of_a_turned_camera_is_turned(open_page, kinds, scene):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene).save(file, "PNG", exif=exif)
    photo = file_of("turned.png", file.getvalue())
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    segment(page, photo)
    answer = ask(kinds, photo)
    assert answer["image"] == {"width": 50, "height": 40}
    x, y, width, height = answer["segments"][0]["bbox"]
    note = hover(page, x + width // 2, y + height // 2, (50, 40))
    expect(note).to_contain_text(f"{answer['segments'][0]['area']} px")


def test_what_is_wrong_is_announced(open_page, kinds):
    page = open_page(kinds, expected="status of 415")
    page.get_by_role("button", name="Segment").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a photo first.")
    expect(page.get_by_label("Choose a photo")).to_be_focused()
    choose(page, file_of("<img src=x onerror=alert(1)>.png", b"no image"))
    page.get_by_role("button", name="Segment").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Request id: ")
    problem = httpx.post(f"{kinds}/v1/models/tiny/segment", content=b"no image").json()
    expect(alert).to_contain_text(f"{problem['title']}. {problem['detail']}")
    expect(page.locator("#result")).to_be_hidden()
    expect(page.get_by_role("progressbar")).to_be_hidden()
    assert page.locator("#drop img").count() == 0


def test_a_server_that_is_gone_is_announced(open_page, kinds, photo):
    page = open_page(kinds, expected="ERR_INTERNET_DISCONNECTED")
    page.get_by_label("Model").select_option("tiny")
    choose(page, photo)
    page.context.set_offline(True)
    page.get_by_role("button", name="Segment").click()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")


def test_key_is_asked_for_and_kept_nowhere(open_page, locked, photo):
    page = open_page(locked, expected="status of 401")
    expect(page.get_by_role("status")).to_have_text("This server wants an API key.")
    page.get_by_label("API key").fill("a wrong one, of some length")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("Authorization: Bearer KEY")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Tab")
    expect(page.get_by_label("Version")).to_contain_text("Newest (1)")
    expect(page.get_by_role("alert")).to_be_empty()
    expect(segment(page, photo)).to_have_count(3)
    download(page, "Id-map")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    expect(page.get_by_label("API key")).to_have_value("")


def test_nothing_is_cut_off(open_page, kinds, photo):
    page = open_page(kinds)
    page.get_by_label("Model").select_option("tiny")
    segment(page, photo)
    for width in (360, 1100, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_example_is_segmented(open_page, kinds):
    page = open_page(kinds)
    page.get_by_role("button", name="Take the example").click()
    expect(page.get_by_role("status")).to_have_text("nuclei.png is ready.")


def test_masks_are_decoded_as_the_server_does(open_page, kinds):
    random = np.random.default_rng(0)
    kinds_of_mask = [(1, 1, 0.5), (7, 5, 0.5), (40, 60, 0.02), (60, 40, 0.98), (300, 200, 0.5), (8, 8, 0), (8, 8, 2)]
    masks = [random.random((height, width)) < share for height, width, share in kinds_of_mask]
    masks.append(np.pad(np.ones((1000, 700), bool), 50))  # long runs
    decode = """async ([counts, pixels]) => {
        const { eachRun } = await import("/page/rle.js");
        const mask = new Uint8Array(pixels);
        eachRun(counts, (start, end) => mask.fill(1, start, end));
        return mask.join("");
    }"""
    page = open_page(kinds)
    for mask in masks:
        (counts,) = rle.encode(mask.astype(np.int32), [1])
        assert page.evaluate(decode, [counts, mask.size]) == "".join(map(str, mask.T.astype(int).ravel()))


def test_documentation_needs_nothing_from_elsewhere(open_page, kinds):
    page = open_page(f"{kinds}/docs")
    page.get_by_text("/v1/models/{name}/segment", exact=False).first.wait_for()
    page.get_by_text("Segment images", exact=True).first.click()
    button = page.get_by_role("button", name="Try it out").first
    button.wait_for()
    assert button.is_enabled()  # requests to elsewhere, and errors, fail in `open_page`
