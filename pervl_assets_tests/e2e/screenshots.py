"""The images in docs/: `make screenshots` takes all of them again, from its own copy of the demo data."""

import io
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import FloatRect, expect

from pervl_assets.cli.gallery import make_gallery
from pervl_assets.cli.report import make_report
from pervl_assets.definitions import defs
from pervl_assets.settings import Settings
from pervl_assets_tests.e2e.servers import Servers
from pervl_assets_tests.e2e.ui import Ui, open_ui

IMAGES: Final = Path(__file__).parents[2] / "docs"
WIDTH: Final = 1500
SCALE: Final = 1.5
COLOURS: Final = 256
"""A page of the UI has few colours; a palette keeps the repository small."""

LARGE: Final = 200_000
"""Larger images (they contain photographs) are saved at one pixel per CSS pixel. In bytes."""

MARGIN: Final = 20
TALL: Final = 2500
"""Height of a window that shows an asset's page without scrolling, in CSS pixels."""

TREE: Final = "ytvos/fsl_seg"
REPORTED: Final = 1
"""Queries of the report that are shown before the last one."""

PLOTTED_RUNS: Final = 3
"""Materializations that a plot needs."""


def take_all(ui: Ui, data: Path) -> None:
    """Take every image, in the order in which a user opens the pages."""
    ui.press("Hide navigation")
    ui.resize(WIDTH, 900)
    ui.open_launchpad("everything")
    save(ui, "launchpad")
    launch(ui)
    save(ui, "run")
    take_graph(ui)
    take_group(ui, "ytvos")
    take_asset(ui, "columns", "inversion/openimages_matches", "margin")
    take_metadata(ui, "matches", "inversion/openimages_matches", "highest_margin", 900)
    take_asset(ui, "image_features", "inversion/coco_image_features", "passport", searched="passport")
    take_metadata(ui, "tree_asset", TREE, "contact_sheet", 1100)
    take_report(ui, data)
    take_gallery(ui, data)
    take_plots(ui)
    take_failing_check(ui, data)
    take_automation(ui)


def launch(ui: Ui) -> None:
    """Press the open launchpad's button and wait until the page of the run says success."""
    ui.launch()
    if (ended := ui.wait_for_run(seconds=300)) != "Success":
        raise RuntimeError(f"{ui.page.url} ended as {ended}: no image is taken.")


def take_graph(ui: Ui) -> None:
    """Take the whole graph, every group opened, from top to bottom; the UI fits it into the window."""
    groups = {node.group_name for node in defs.resolve_asset_graph().asset_nodes}
    ui.page.evaluate("""localStorage.setItem("asset-graph-direction", '"vertical"')""")
    ui.resize(3600, 1600)  # a smaller window shows boxes without names
    ui.open("/asset-groups?expanded=" + ",".join(f"global@global:{group}" for group in groups))
    expect(ui.page.get_by_text("croissant")).to_be_visible()
    ui.settle()
    boxes = [node.bounding_box() for node in ui.page.locator("foreignObject").all()]
    left, top = (min(box[side] for box in boxes) - MARGIN for side in "xy")
    right = max(box["x"] + box["width"] for box in boxes) + MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + MARGIN
    save(ui, "asset_graph", {"x": left, "y": top, "width": right - left, "height": bottom - top})
    ui.page.evaluate("""localStorage.removeItem("asset-graph-direction")""")


def take_group(ui: Ui, group: str) -> None:
    """Take the graph of one group, large enough to show the state of each asset and its checks."""
    ui.resize(WIDTH, 1150)
    ui.open(f"/locations/pervl_assets/asset-groups/{group}/lineage")
    expect(ui.page.get_by_text("Materialized").first).to_be_visible()
    save(ui, "group_graph")


def take_report(ui: Ui, data: Path) -> None:
    """Take one split of the report, from its heading to the first of its worst queries."""
    file = data.parent / "report.html"
    file.write_bytes(make_report(Settings(data=data)))
    ui.resize(1200, 900)
    ui.page.goto(file.as_uri())
    section = ui.page.locator("section").filter(has=ui.page.get_by_role("heading", name="PerVL-YTVOS, test"))
    first, last = section.bounding_box(), section.locator(".query").nth(REPORTED).bounding_box()
    ui.resize(1200, round(last["y"] + last["height"]) + MARGIN)
    clip = {"x": 0, "y": first["y"], "width": 1200, "height": last["y"] + last["height"] - first["y"] + MARGIN}
    save(ui, "report", clip)
    ui.open("/")


def take_gallery(ui: Ui, data: Path) -> None:
    """Take concepts of the gallery with boxes and masks, and its map with one image."""
    written = make_gallery(Settings(data=data), data.parent / "gallery", "ytvos", "test")
    ui.resize(1200, 640)
    ui.page.goto(written.page.as_uri())
    ui.press("Boxes and masks")
    save(ui, "gallery")
    ui.page.get_by_role("button", name="Map").click()
    ui.page.locator("#canvas").focus()
    ui.page.keyboard.press("ArrowRight")
    save(ui, "gallery_map")
    ui.open("/")


def take_plots(ui: Ui) -> None:
    """Take the plots of a tree's counts and seconds, after some more materializations."""
    for _ in range(PLOTTED_RUNS):
        ui.materialize(TREE)
    ui.resize(WIDTH, 1580)
    ui.open_asset(TREE)
    ui.press("Plots")
    save(ui, "plots")


def take_asset(ui: Ui, name: str, asset: str, last: str, searched: str = "") -> None:
    """Take the page of an asset, down to a row of its columns or metadata; of this, show only what is searched for."""
    ui.resize(WIDTH, TALL)
    ui.open_asset(asset)
    ui.settle()
    if searched:
        ui.page.get_by_placeholder("Filter metadata keys").fill(searched)
        ui.settle()
    row = ui.find_row(last).bounding_box()
    ui.resize(WIDTH, round(row["y"] + row["height"]) + 1)
    save(ui, name)


def take_metadata(ui: Ui, name: str, asset: str, value: str, height: int) -> None:
    """Take the page of an asset with one of its tables or images opened."""
    ui.resize(WIDTH, height)
    ui.open_asset(asset)
    with ui.show_metadata(value):
        save(ui, name)


def take_failing_check(ui: Ui, data: Path) -> None:
    """Take the check of a tree in which one file was changed and another one removed."""
    changed, removed, *_ = sorted((data / "youtube_vos/ytvos_PerVL/fsl_seg/train").rglob("*.jpg"))
    changed.write_bytes(b"changed")
    removed.unlink()
    ui.resize(WIDTH, 800)
    ui.execute_check(TREE, "sums_hold")
    expect(ui.page.get_by_text("Failed", exact=True).first).to_be_visible()
    save(ui, "failing_check")


def take_automation(ui: Ui) -> None:
    """Take the schedules and sensors, one of them started."""
    ui.resize(WIDTH, 500)
    ui.go_to("/automation")
    ui.flip_switch("verify_results_nightly")
    save(ui, "automation")


def save(ui: Ui, name: str, clip: FloatRect | None = None) -> None:
    """Save the open page, or a part of it in CSS pixels, once it has settled."""
    ui.settle()
    image = Image.open(io.BytesIO(ui.page.screenshot(clip=clip))).convert("RGB")
    file = IMAGES / f"{name}.png"
    image.quantize(COLOURS).save(file, optimize=True)
    if file.stat().st_size > LARGE:
        size = [round(side / SCALE) for side in image.size]
        image.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="pervl-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        with Servers(Path(folder), data) as servers, open_ui(servers, SCALE) as ui:
            take_all(ui, data)
