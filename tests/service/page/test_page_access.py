"""The page by keyboard and screen reader, and what it says when something is wrong."""

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.service.page.driving import KEY, ask, choose, download, file_of, found, segment, words


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
