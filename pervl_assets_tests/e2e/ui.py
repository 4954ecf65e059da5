"""Steps of a user in the UI of Dagster 1.13, for the browser test and the screenshots."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Locator, Page, expect, sync_playwright

from pervl_assets_tests.e2e.servers import Servers

SECONDS: Final = 1000
"""Playwright counts in milliseconds."""

PATIENCE: Final = 30 * SECONDS
"""Time-out for anything a page shows by itself or after a short run, on a busy machine."""

_UNSETTLED: Final = (
    ":is(.spinnerGlobal, [class*=Skeleton_skeleton], [class*=loadingDot], [class*=LoadingBar_loading__])"
)
"""Placeholders of content that is still loading."""

_CALM: Final = """
requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 100);
cancelAnimationFrame = clearTimeout;
addEventListener("DOMContentLoaded", () => document.head.appendChild(document.createElement("style")).textContent =
    "*, *::before, *::after { animation: none !important; transition: none !important; caret-color: transparent }");
"""
"""Ten frames per second and no animations: else the page of an active run would slow the run by a third."""


def find_browser() -> str | None:
    """Return the path of Debian's chromium, or None."""
    return shutil.which("chromium")


class Ui:
    """A page of the browser, and the steps of a user."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address

    def open(self, path: str) -> None:
        """Open a page by its path."""
        self.page.goto(self.address + path)

    def resize(self, width: int, height: int) -> None:
        """Resize the window, in CSS pixels."""
        self.page.set_viewport_size({"width": width, "height": height})

    def settle(self) -> None:
        """Wait until all is loaded and notices are gone. The page of an active run never settles."""
        self.page.mouse.move(0, 0)  # a notice under the mouse stays
        self.page.wait_for_load_state("networkidle")
        expect(self.page.locator(_UNSETTLED).filter(visible=True)).to_have_count(0)
        expect(self._notices).to_have_count(0)

    @property
    def _notices(self) -> Locator:
        return self.page.get_by_role("region", name="Notifications").get_by_role("listitem")

    def go_to(self, path: str) -> None:
        """Choose the entry of the navigation, wide or narrow, that leads to a page."""
        self.page.get_by_role("navigation").locator(f'a[href="{path}"]').click()

    def press(self, name: str) -> None:
        """Press a button once it is enabled."""
        self.page.get_by_role("button", name=name).click()

    def open_launchpad(self, job: str) -> None:
        """Open a job's launchpad from the list of jobs, and wait until its config is valid."""
        self.go_to("/jobs")
        self.page.get_by_role("link", name=job).click()
        self.page.get_by_role("tab", name="Launchpad").click()
        expect(self.page.get_by_role("button", name="Launch run")).to_be_enabled()

    def configure(self, **config: object) -> None:
        """Replace the config of the open launchpad by a selection of everything and these settings."""
        lines = [f"      {name}: {value}" for name, value in {"selection": "'*'", **config}.items()]
        text = "\n".join(["ops:", "  materialize:", "    config:", *lines])
        self.page.locator(".CodeMirror").evaluate("(editor, text) => editor.CodeMirror.setValue(text)", text)

    def launch(self) -> None:
        """Press the launchpad's button; the page of the run opens."""
        self.press("Launch run")
        self.page.wait_for_url("**/runs/*")

    def wait_for_run(self, seconds: int) -> str:
        """Wait until the open page of a run shows its final status; return that."""
        status = self.page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first
        status.wait_for(timeout=seconds * SECONDS)
        return status.inner_text()

    def filter_events(self, text: str) -> None:
        """Show only some events on the open page of a run."""
        self.page.get_by_placeholder("Filter…").fill(text)

    def open_asset(self, asset: str, view: str = "overview") -> None:
        """Open a view of an asset's page."""
        self.open(f"/assets/{asset}?view={view}")

    def find_row(self, name: str) -> Locator:
        """Return the row of a column, or of a metadata value, on the open page of an asset."""
        return self.page.get_by_role("row", name=re.compile(f"^{name} "))

    @contextmanager
    def show_metadata(self, name: str) -> Iterator[Locator]:
        """Open a table or image of the asset's latest materialization, yield its dialog, and close it."""
        self.find_row(name).get_by_text("[Show Markdown]").click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(name, exact=True).wait_for()
        yield dialog
        dialog.get_by_role("button", name="Close").click()

    def execute_check(self, asset: str, check: str) -> None:
        """Press the button of a check on the page of its asset, watch its run to the end, and come back to the check.

        The page of the check also shows the end, but it updates only every 15 seconds.
        """
        self.open(f"/assets/{asset}?view=checks&checkDetail={check}")
        self._run(re.compile("Execute$"))
        self.page.go_back()

    def materialize(self, asset: str) -> None:
        """Press the button of an asset on its page, which makes it even if it is up to date, and watch its run."""
        self.open_asset(asset)
        self._run(re.compile("Materialize$"))

    def _run(self, button: re.Pattern[str]) -> None:
        """Press a button that starts a run, and watch the run to the end."""
        self.page.get_by_role("button", name=button).click()
        self._notices.get_by_role("link", name="View").click()
        self.wait_for_run(seconds=60)

    def find_switch(self, automation: str) -> Locator:
        """Return the state of a schedule's or sensor's switch on the open page of automations: a hidden checkbox."""
        return self._find_label(automation).get_by_role("checkbox")

    def flip_switch(self, automation: str) -> None:
        """Press the switch of a schedule or sensor on the open page of automations, and wait for the reply."""
        expect(self.find_switch(automation)).to_be_enabled()
        self._find_label(automation).click()
        expect(self.find_switch(automation)).to_be_enabled()

    def _find_label(self, automation: str) -> Locator:
        return self.page.get_by_role("link", name=automation).locator("xpath=following-sibling::*//label")


@contextmanager
def open_ui(servers: Servers, scale: float = 1) -> Iterator[Ui]:
    """Open a browser while the servers start, and yield its page once they have.

    Args:
        servers: Servers that were started; this function waits for them.
        scale: Pixels of a screenshot in a CSS pixel.
    """
    flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # root cannot have the sandbox
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=flags)
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 1000}, device_scale_factor=scale)
            page.set_default_timeout(PATIENCE)
            page.add_init_script(_CALM)
            servers.wait()
            ui = Ui(page, servers.address)
            ui.open("/")
            yield ui
        finally:
            browser.close()
