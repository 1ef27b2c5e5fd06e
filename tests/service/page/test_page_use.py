"""What the page shows and gives, in headless Chromium before a real server of tiny models."""

import base64
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from service import rle
from service.overlay import distinct_colour
from tests.service.page.driving import ask, download, file_of, found, hover, read_image, segment, words


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
