"""The Dagster UI in a browser, with the real webserver and daemon, on the demo after the tests of the command line.

The tests are in the order of a first visit. Each depends on the screen and files that the one before it left.
"""

import re
import shutil
import time
from collections.abc import Iterator

import polars as pl
import pytest

from pervl_assets.cli.report import make_report
from pervl_assets.definitions import build_definitions
from pervl_assets.io_managers.base import locate_value
from pervl_assets.settings import Settings
from pervl_assets_tests.e2e.project import SHORT_TRAINING
from pervl_assets_tests.e2e.servers import Servers

pytest.importorskip("playwright.sync_api", reason="needs Python playwright: pip install 'pervl_assets[dev]'")

from playwright.sync_api import expect

from pervl_assets_tests.e2e.ui import Ui, find_browser, open_ui

if not find_browser():
    pytest.skip("needs a browser: apt-get install chromium", allow_module_level=True)

pytestmark = pytest.mark.timeout(420)

GROUP = "ytvos"
TREE = f"{GROUP}/fsl_seg"


@pytest.fixture(scope="module")
def servers(demo) -> Iterator[Servers]:
    with Servers(demo.root, demo.data, SHORT_TRAINING) as started:
        yield started


@pytest.fixture(scope="module")
def ui(servers) -> Iterator[Ui]:
    with open_ui(servers) as opened:
        yield opened


@pytest.fixture(scope="module")
def graph():
    return build_definitions(Settings.from_env(SHORT_TRAINING)).resolve_asset_graph()


@pytest.fixture(scope="module")
def everything(servers, ui) -> str:
    """The run of the job `everything`, launched by its button once a group of the demo is missing. Its page is open."""
    shutil.rmtree(servers.data / "assets" / GROUP)
    ui.open_launchpad("everything")
    ui.launch()
    assert ui.wait_for_run(seconds=360) == "Success"
    return re.search("/runs/([0-9a-f-]{36})", ui.page.url)[1]


def count_partitions(node) -> int:
    return len(node.partitions_def.get_partition_keys()) if node.partitions_def else 1


def test_the_first_page_says_what_to_press_and_links_to_the_docs(servers, ui):
    ui.open("/")
    expect(ui.page.get_by_text("Press Launchpad, then Launch Run.")).to_be_visible()
    ui.page.get_by_role("link", name="docs/operating.md").click()
    expect(ui.page.get_by_role("heading", name="Jobs", exact=True)).to_be_in_viewport()
    ui.open("/")


def test_the_graph_shows_every_asset(servers, ui, graph):
    ui.go_to("/asset-groups")
    for group in {node.group_name for node in graph.asset_nodes}:
        expect(ui.page.get_by_role("button", name=group)).to_be_visible()
    ui.press("Materialize all")
    dialog = ui.page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Launch runs to materialize {len(graph.materializable_asset_keys)} assets")
    dialog.get_by_role("button", name="Cancel").click()


def test_one_button_materializes_what_is_missing(servers, ui, everything, graph):
    total = sum(count_partitions(node) for node in graph.asset_nodes)
    group = [node for node in graph.asset_nodes if node.group_name == GROUP]
    made = sum(map(count_partitions, group)) + 1  # and the release, which describes their files
    counts = {"up_to_date": total - made, "materialized": made, "not_materialized": 0, "errors": 0}
    ui.filter_events("type:STEP_OUTPUT")
    for name, count in counts.items():
        expect(ui.page.get_by_role("row", name=f"{name} {count}", exact=True)).to_be_visible()


def test_a_job_and_the_runs_that_it_started_lead_to_each_other(servers, ui, everything):
    ui.go_to("/jobs")
    ui.page.get_by_role("link", name="everything").click()
    ui.page.get_by_role("link", name="several runs").click()
    started = ui.page.locator("a[href^='/runs/']").filter(has_text=re.compile("^[0-9a-f]{8}$"))
    expect(started.first).to_be_visible()
    assert everything[:8] not in started.all_inner_texts()
    started.first.click()
    ui.filter_events("Started by")
    ui.page.get_by_role("link", name=everything).click()
    ui.filter_events("Run 1:")
    expect(ui.page.get_by_role("link", name=re.compile("^[0-9a-f-]{36}$")).first).to_be_visible()


def test_everything_on_an_unchanged_demo_starts_no_run_and_takes_seconds(servers, ui, everything, graph):
    ui.open_launchpad("everything")
    start = time.monotonic()
    ui.launch()
    assert ui.wait_for_run(seconds=60) == "Success"
    assert time.monotonic() - start < 60  # measured: 25 with a load of 16 on two cores
    ui.filter_events("type:STEP_OUTPUT")
    total = sum(count_partitions(node) for node in graph.asset_nodes)
    expect(ui.page.get_by_role("row", name=f"up_to_date {total}", exact=True)).to_be_visible()
    expect(ui.page.get_by_role("row", name=re.compile("^runs "))).to_have_count(0)


def test_the_launchpad_refuses_wrong_values_before_there_is_a_run(servers, ui):
    ui.open_launchpad("everything")
    ui.configure(device="gpu")
    expect(ui.page.get_by_text("device not in enum type auto | cpu | cuda")).to_be_visible()
    expect(ui.page.get_by_role("button", name="Launch run")).to_be_disabled()
    ui.configure(top_objects=-3)
    ui.press("Launch run")
    dialog = ui.page.get_by_role("dialog")
    expect(dialog).to_contain_text("PervlError: 1 setting of the launchpad cannot be used.")
    expect(dialog).to_contain_text("top_objects=-3: must be greater than or equal to 1")
    dialog.get_by_role("button", name="OK").click()
    ui.go_to("/runs")
    expect(ui.page.get_by_text("Queued (0)")).to_be_visible()


def test_a_tree_shows_its_contact_sheet(servers, ui, everything):
    ui.open_asset(TREE)
    expect(ui.page.get_by_role("row").filter(has_text="[Show Markdown]").first).to_contain_text("contact_sheet")
    concepts = pl.read_parquet(locate_value(servers.data, [GROUP, "concepts"], ".parquet"), glob=False)["concept"]
    for value, shown in (("contact_sheet", 6), (f"concepts 1 to {len(concepts)}", len(concepts))):
        with ui.show_metadata(value) as dialog:
            images = dialog.locator("table img")
            expect(images).to_have_count(shown)
            assert images.evaluate_all("all => Promise.all(all.map(one => one.decode())).then(() => true)")
            expect(dialog.get_by_role("cell", name=re.compile("class: .*; caption: "))).to_have_count(shown)


def test_the_report_shows_scores_and_images_with_its_own_style(servers, ui, everything, tmp_path):
    file = tmp_path / "report.html"
    file.write_bytes(make_report(Settings(data=servers.data)))
    page, refused = ui.page.context.browser.new_page(), []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", name="PerVL-DeepFashion2, test")).to_be_visible()
    expect(page.get_by_role("cell", name="PALAVRA").first).to_be_visible()
    images = page.locator("img")
    assert images.count() > 20
    assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator(".dim").first.evaluate("one => getComputedStyle(one).color") != "rgb(0, 0, 0)"
    assert refused == []  # by the page's policy
    page.close()


def test_the_page_of_the_ranks_shows_best_and_worst_queries(servers, ui, everything):
    ui.open_asset("evaluation/ytvos/baseline_ranks")
    with ui.show_metadata("queries") as dialog:
        picture = dialog.get_by_role("img", name="queries")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_a_check_of_a_file_that_was_changed_is_shown_as_failed(servers, ui, everything):
    crop = min((servers.data / "youtube_vos/ytvos_PerVL/fsl_seg/train").rglob("*.jpg"))
    crop.write_bytes(b"changed")
    ui.execute_check(TREE, "sums_hold")
    expect(ui.page.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(ui.page.get_by_text(f"1 changed: {crop.relative_to(servers.data)}")).to_be_visible()


def test_a_schedule_is_started_and_stopped_by_its_switch(servers, ui):
    ui.go_to("/automation")
    switch = ui.find_switch("verify_results_nightly")
    expect(switch).not_to_be_checked()
    ui.flip_switch("verify_results_nightly")
    expect(switch).to_be_checked()
    ui.page.get_by_role("link", name="verify_results_nightly").click()
    expect(ui.page.get_by_role("row", name="Next tick")).to_be_visible()
    ui.page.go_back()
    ui.flip_switch("verify_results_nightly")
    expect(switch).not_to_be_checked()


def test_the_page_opens_a_websocket_and_one_of_another_site_does_not(servers, ui):
    other = ui.page.context.browser.new_page()
    other.goto(servers.address.replace("127.0.0.1", "localhost") + "/server_info")  # for a browser, another site
    connect = """address => new Promise(done => {
        const socket = new WebSocket(address.replace("http", "ws") + "/graphql", "graphql-ws");
        socket.onopen = () => done("open");
        socket.onerror = () => done("refused");
    })"""
    assert other.evaluate(connect, servers.address) == "refused"
    other.close()
    assert ui.page.evaluate(connect, servers.address) == "open"
