import io
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import dagster as dg
import pytest
from rich.console import Console
from rich.progress import Progress

from pervl_assets.cli.runs import find_dagster_home, follow, open_instance
from pervl_assets.core.errors import PervlError, WriteError


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


def fill(path, content: bytes) -> None:
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        file.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with open_instance(tmp_path) as instance:
        dg.materialize([dg.AssetsDefinition.from_op(dg.op(name="made")(lambda: None))], instance=instance)
    return tmp_path


def use(home) -> None:
    with open_instance(home) as instance:
        instance.get_runs()
        instance.get_asset_keys()
        instance.all_instigator_state()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("history/runs.db", lambda old: b"rubbish " * 999),
        ("history/runs/index.db", lambda old: old[: len(old) // 3]),
        ("schedules/schedules.db", lambda old: b"rubbish " * 999),
    ],
)
def test_a_damaged_database_is_named_with_what_to_do(home, file, damage):
    use(home)
    fill(home / file, damage((home / file).read_bytes()))
    with pytest.raises(PervlError, match=r"1 database .* cannot be read") as raised:
        use(home)
    (detail,) = raised.value.details
    assert detail.startswith(f"{home / file}: ")


def test_instances_are_opened_one_after_another(tmp_path, monkeypatch):
    """Two processes that open a new home at the same time would both write the version of its databases."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "new"))
    at_work, most = [], []
    real = dg.DagsterInstance.get

    def get_slowly():
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.05)
        at_work.pop()
        return real()

    monkeypatch.setattr(dg.DagsterInstance, "get", get_slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [tmp_path] * 4))
    assert most == [1] * 4


def test_a_database_that_two_processes_made_at_once_is_named(home):
    use(home)
    file = home / "schedules/schedules.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("INSERT INTO alembic_version VALUES ('0')")
    with pytest.raises(PervlError, match="two processes made it at the same time") as raised:
        use(home)
    assert str(file) in raised.value.details[0]


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        ("database is locked", WriteError, "is locked by another process"),
        ("attempt to write a readonly database", WriteError, "set DAGSTER_HOME"),
        ("database or disk is full", WriteError, "Free some space"),
        ("no such column: runs.x", PervlError, "dagster instance migrate"),
    ],
)
def test_other_errors_of_a_database_have_their_own_advice(home, reason, kind, words):
    with pytest.raises(kind, match=words) as raised, open_instance(home):
        try:
            raise sqlite3.OperationalError(reason)
        except sqlite3.Error as error:
            raise dg.DagsterInvariantViolationError("of Dagster") from error
    assert str(home / "history" / "runs.db") in raised.value.details


def test_a_home_that_is_no_folder_or_has_wrong_settings_is_an_error(home, monkeypatch):
    (home / "dagster.yaml").write_text("concurrency: [1")
    with pytest.raises(PervlError, match=r"dagster\.yaml is not valid"):
        use(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster.yaml"))
    with pytest.raises(WriteError, match=r"DAGSTER_HOME.*\n.*set DAGSTER_HOME to a folder"):
        use(home)
