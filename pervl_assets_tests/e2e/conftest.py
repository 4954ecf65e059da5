"""The demo that all tests here share; a failed browser test shows a screenshot and the servers' logs."""

import shutil

import pytest

from pervl_assets_tests.e2e.project import Project


@pytest.fixture(scope="session")
def demo(synthetic_raw, tmp_path_factory) -> Project:
    """The project after `pervl demo`, which draws the texts; the archives are copies of those of all tests."""
    project = Project(tmp_path_factory.mktemp("project"))
    shutil.copytree(synthetic_raw, project.data, ignore=shutil.ignore_patterns("*.txt", "*.csv"))
    project.first = project.start("demo")
    return project


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    ui, servers = item.funcargs.get("ui"), item.funcargs.get("servers")
    if report.failed and ui:
        report.sections.append(("Browser", leave_page(ui, servers.root / f"{item.name}.png")))
    if report.failed and servers:
        report.sections.append(("Servers", servers.read_logs()))
    return report


def leave_page(ui, image):
    """Save a screenshot and open the start page for the next test; return address and file for the report."""
    address = ui.page.url
    try:
        ui.page.screenshot(path=image)
        ui.open("/")
    except Exception as error:  # a dead browser must not hide the failure of the test
        return f"{address}\n{error}"
    return f"{address}\n{image}"
