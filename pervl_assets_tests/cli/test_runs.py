import io

import dagster as dg
import pytest
from rich.console import Console
from rich.progress import Progress

from pervl_assets.cli.runs import find_dagster_home, follow, open_instance
from pervl_assets.core.addresses import parse_address
from pervl_assets.core.errors import PervlError
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


def test_progress_is_logged_lines_and_materializations(instance):
    @dg.asset(key_prefix="raw")
    def archive(context) -> None:
        context.log.info("half of it")

    run = dg.materialize([archive], instance=instance).run_id
    updates: list[dict] = []
    progress = Progress(console=Console(file=io.StringIO()), disable=True)
    progress.add_task("materializing")
    progress.update = lambda _, **update: updates.append(update)
    with follow(instance, run, 1, progress):
        pass
    assert updates == [{"total": 1}, {"news": "raw/archive: half of it"}, {"advance": 1, "news": "raw/archive"}]
    assert progress.console.file.getvalue() == "  raw/archive\n"
