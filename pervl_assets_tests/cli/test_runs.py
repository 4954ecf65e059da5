import io
import os
import re

import dagster as dg
import pytest
from rich.console import Console

from pervl_assets.cli.console import RunDisplay
from pervl_assets.cli.runs import find_dagster_home, follow, open_instance
from pervl_assets.core.addresses import parse_address
from pervl_assets.core.errors import PervlError
from pervl_assets.defs.run_results import RunResult
from pervl_assets.defs.runs import PlannedRun
from pervl_assets.storage import open_store


def test_the_home_is_the_one_named_else_the_project_else_below_the_data(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "deep").mkdir(parents=True)
    elsewhere.mkdir()
    for name in ("dagster.yaml", "workspace.yaml"):
        (project / name).touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "named"))
    assert find_dagster_home(tmp_path) == tmp_path / "named"
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(project / "deep")
    assert find_dagster_home(tmp_path) == project
    monkeypatch.chdir(elsewhere)
    assert find_dagster_home(tmp_path / "data") == tmp_path / "data/assets/dagster"
    bucket = "s3://pervl/data"
    monkeypatch.setenv("PERVL_SCRATCH", str(tmp_path))
    home = find_dagster_home(parse_address(bucket))
    assert tmp_path in home.parents
    assert not home.is_relative_to(open_store(bucket).folder)  # where manifests name files, and a home can run code


@pytest.mark.parametrize("writable", ["dagster.yaml", "workspace.yaml", "."])
def test_a_home_that_others_can_write_is_ignored(tmp_path, monkeypatch, caplog, writable):
    for name in ("dagster.yaml", "workspace.yaml"):
        (tmp_path / name).touch()
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_dagster_home(tmp_path / "data") == tmp_path
    (tmp_path / writable).chmod(0o777)
    assert find_dagster_home(tmp_path / "data") == tmp_path / "data/assets/dagster"
    assert f"{tmp_path / 'dagster.yaml'} is ignored" in caplog.text


@pytest.mark.parametrize("name", ["a?b", "a*b", "run[1]", "a%20b", "caf\udce9"])
def test_a_home_that_dagster_would_read_as_another_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / name))
    with pytest.raises(PervlError, match="DAGSTER_HOME"), open_instance(tmp_path):
        pass
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["a b", "100% é]", "a#b&c=d", "{x};'y'"])
def test_an_odd_home_is_the_one_that_is_used(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", name)
    with open_instance(tmp_path) as instance:
        assert not instance.telemetry_enabled  # its dagster.yaml was read
        instance.get_runs()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [*(tmp_path / name).rglob("*.db")]


def test_a_home_below_the_data_that_others_can_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    config = find_dagster_home(tmp_path) / "dagster.yaml"
    for _ in range(2):  # makes it, then uses it
        with open_instance(tmp_path):
            monkeypatch.delenv("DAGSTER_HOME")
    for path in (config, config.parent):
        path.chmod(0o777)
        with pytest.raises(PervlError, match="other users can write it"), open_instance(tmp_path):
            pass
        path.chmod(0o755)
    config.unlink()
    config.parent.chmod(0o777)
    with pytest.raises(PervlError, match="other users can write it"), open_instance(tmp_path):
        pass


def test_telemetry_is_off_in_a_home_without_dagster_yaml(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with open_instance(tmp_path) as instance:
        assert not instance.telemetry_enabled
        assert instance.root_directory == str(tmp_path / "home")


@pytest.fixture
def shown(instance):
    """Run an asset that logs two lines; return the calls of a display, and what it prints without a terminal."""

    @dg.asset(key_prefix="raw")
    def archive(context) -> dg.MaterializeResult:
        context.log.info("[b]half[/] of it\x1b[2J")
        context.log.info("50%, 1 min left: 5 of 10 files")
        return dg.MaterializeResult(metadata={"files": 1, "bytes": 1234})

    run = dg.materialize([archive], instance=instance).run_id

    def show(*, verbose: bool = False) -> tuple[list, str]:
        calls, console = [], Console(file=io.StringIO(), width=60)
        display = RunDisplay(console, verbose=verbose)
        for name in ("begin", "end", "report"):
            method = getattr(display, name)
            setattr(display, name, lambda *given, call=method: (calls.append(given), call(*given)))
        planned, result = PlannedRun((dg.AssetKey(["raw", "archive"]),)), RunResult(runs=[run], total=3)
        with display, follow(instance, display, planned, result):
            pass
        return calls, console.file.getvalue()

    return show


def test_the_display_goes_where_it_went_before_dagster_redirects_it(tmp_path):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file, RunDisplay(Console(file=file)) as display, (tmp_path / "log").open("w") as log:
        os.dup2(log.fileno(), writer)
        display.add("raw/a", "1 file")
    assert os.read(reader, 99) == b"1/0 raw/a: 1 file\n"
    os.close(reader)
    assert not (tmp_path / "log").read_text()


def test_a_step_is_shown_while_it_is_executed(shown):
    calls, _ = shown()
    assert [call[0] for call in calls] == ["raw/archive"] * 4
    assert calls[2] == ("raw/archive", "50%, 1 min left: 5 of 10 files")


def test_a_file_gets_a_line_for_each_asset_and_for_how_far_it_is(shown):
    _, text = shown()
    progress, made = text.splitlines()  # the other lines with --verbose
    assert progress == "  raw/archive: 50%, 1 min left: 5 of 10 files"
    assert re.fullmatch(r"1/3 raw/archive: 1 file, 1\.2 kB, \d\.\d s", made)
    _, verbose = shown(verbose=True)
    assert verbose.splitlines()[0] == r"  raw/archive: [b]half[/] of it\x1b[2J"
