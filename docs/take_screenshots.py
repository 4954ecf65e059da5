"""Take the README's pictures from the running UI: `make demo`, `make ui`, then `python docs/take_screenshots.py`.

Needs what the project itself does not: Python playwright (`pip install playwright`) and a Chromium at CHROMIUM, by
default /usr/bin/chromium. The address of the UI may be given as an argument.
"""

import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
GROUPS = ("raw", "ytvos", "deep_fashion", "inversion", "palavra", "release")


def open_page(page: Page, path: str, width: int, height: int) -> None:
    """Open a page of the UI and wait until it has drawn itself."""
    page.set_viewport_size({"width": width, "height": height})
    page.goto(ADDRESS + path)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(4000)


def take_graph(page: Page) -> None:
    """Take the whole graph, every group opened; the UI fits it into the window when the page loads."""
    expanded = ",".join(f"global@global:{group}" for group in GROUPS)
    open_page(page, f"/asset-groups?expanded={expanded}", 1300, 2350)
    page.get_by_text("Hide navigation").click()
    page.wait_for_timeout(1500)
    page.screenshot(path=HERE / "asset_graph.png")


def take_tree(page: Page) -> None:
    """Take the page of a tree asset with its contact sheet opened."""
    open_page(page, "/assets/ytvos/fsl_seg", 1400, 1150)
    page.get_by_text("[Show Markdown]").first.click()
    page.wait_for_timeout(2000)
    page.screenshot(path=HERE / "tree_asset.png")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=QUIET)
    page = browser.new_page()
    take_graph(page)
    take_tree(page)
    browser.close()

for picture in HERE.glob("*.png"):  # a screenshot has few colours; a palette keeps the repository small
    Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)
