"""Where a browser test fails: what the browser showed, and what the servers logged."""

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    ui, servers = item.funcargs.get("ui"), item.funcargs.get("servers")
    if report.failed and ui:
        report.sections.append(("Browser", leave_page(ui, servers.root / f"{item.name}.png")))
    if report.failed and servers:
        report.sections.append(("Servers", servers.tell()))
    return report


def leave_page(ui, picture):
    """Take a picture of the page and go home, away from what a failed test left open; return what there is to tell."""
    address = ui.page.url
    try:
        ui.page.screenshot(path=picture)
        ui.open("/")
    except Exception as error:  # a browser that has died shall not hide why the test failed
        return f"{address}\n{error}"
    return f"{address}\n{picture}"
