"""The page of the gallery in a browser: filters, map, neighbours, by keyboard; and a caption that attacks."""

import os

import pytest

from pervl_assets.gallery.collection import collect
from pervl_assets.gallery.page import write_gallery
from pervl_assets_tests.gallery.samples import HOSTILE, make_source

pytest.importorskip("playwright.sync_api", reason="needs Python playwright: pip install 'pervl_assets[dev]'")

from playwright.sync_api import sync_playwright

from pervl_assets_tests.e2e.ui import find_browser

if not find_browser():
    pytest.skip("needs a browser: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a tiny gallery; at the end no script failed, and nothing but its images was loaded."""
    root = tmp_path_factory.mktemp("gallery")
    written = write_gallery([collect(make_source(root))], ["synthetic"], root / "out")
    faults, loaded = [], []
    flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=flags)
        page = browser.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: loaded.append(request.url))
        page.goto(written.page.as_uri())
        yield page
        browser.close()
    assert faults == []
    assert all(address.startswith((written.page.as_uri(), f"{root.as_uri()}/out/images/")) for address in loaded)


@pytest.fixture(autouse=True)
def begin(page):
    page.reload()


def test_every_image_is_shown_and_a_caption_is_text(page):
    assert page.locator("article").count() == 3
    assert page.locator("article .picture").count() == 10
    assert page.get_by_text("quarantined: no JPEG").is_visible()
    assert page.locator("article p").nth(1).inner_text() == HOSTILE.replace("\u202e", r"\u202e")
    assert page.locator("article .picture img").first.evaluate("image => image.naturalWidth") == 40


def test_the_tiles_have_a_legend_and_a_place_its_total(page):
    legend = page.locator("#borders")
    assert "blue border: evaluation image" in legend.inner_text()
    assert legend.inner_text().endswith("no border: few-shot image or whole frame")
    assert page.locator("article .dim").first.inner_text() == "coffee mug, worst place 1 of 3 by PALAVRA"
    page.get_by_role("button", name="Map").click()
    assert not legend.is_visible()


def test_filters_and_order(page):
    assert page.locator("#count").inner_text() == "3 of 3 concepts, 11 images"
    page.locator("#text").fill("CAKE mug")
    assert page.locator("article h2").all_inner_texts() == ["ben_blue"]
    page.locator("#text").fill("")
    page.locator("#role").select_option("evaluation")
    page.locator("#order").select_option("hard")
    assert page.locator("#count").inner_text() == "3 of 3 concepts, 3 images"
    assert page.locator("article h2").first.inner_text() == "ben_blue"
    page.locator("#class").select_option("coffee mug")
    assert page.locator("article h2").all_inner_texts() == ["anna_red"]


def test_an_image_is_opened_with_its_places_and_neighbours_and_closed_by_keyboard(page):
    page.locator("article button").first.focus()
    page.keyboard.press("Enter")
    detail = page.get_by_role("dialog")
    assert "place of 3" in detail.inner_text()
    assert "1 by Text only; 1 by PALAVRA" in detail.inner_text()
    assert detail.locator(".near button").count() == 5
    page.keyboard.press("ArrowRight")
    assert "frame.jpg" in detail.inner_text()
    assert not detail.locator(".box").is_visible()
    detail.get_by_role("button", name="Boxes and masks").click()
    picture, box = (detail.locator(name).bounding_box() for name in (".picture", ".box"))
    assert box["x"] - picture["x"] == pytest.approx(0.25 * picture["width"], abs=1)
    page.keyboard.press("Escape")
    assert not detail.is_visible()


def test_the_map_is_walked_by_keyboard(page):
    page.get_by_role("button", name="Map").click()
    assert "Image features of fake" in page.locator("#axes").inner_text()
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#here").inner_text()
    assert first.endswith(("coffee mug", "no class"))
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").get_by_role("heading", name=first.partition(",")[0]).is_visible()
