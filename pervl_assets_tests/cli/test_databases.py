"""Errors of Dagster's databases. A real Postgres is in `scale/test_postgres.py`."""

import shutil
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import dagster as dg
import pytest

from pervl_assets.cli.databases import check_postgres_url, explain_database_errors
from pervl_assets.cli.runs import open_instance
from pervl_assets.core.errors import PervlError, WriteError
from pervl_assets.settings import POSTGRES_URL
from pervl_assets_tests.test_dagster_yaml import TEAM

SECRET = "Zq7-unmistakable-Kx9"


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


# ---- Postgres


@pytest.fixture
def team(tmp_path, monkeypatch):
    shutil.copy(TEAM, tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://anna:p%40ss@db.example.org/pervl",
        "postgresql+psycopg2://anna:pw@db:5432/pervl?sslmode=verify-full",
        "postgresql+psycopg2://anna@[::1]:5432/pervl",
    ],
)
def test_addresses_of_a_database(team, monkeypatch, url):
    monkeypatch.setenv(POSTGRES_URL, url)
    check_postgres_url(team / "dagster.yaml")


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"postgresql://anna:{SECRET}@db/pervl",
        f"postgresql+psycopg2://anna:{SECRET}@db",
        f"postgresql+psycopg2://anna:{SECRET}@x@db/pervl",
        f"postgresql+psycopg2://anna:x/{SECRET}@db/pervl",
        f"postgresql+psycopg2://anna:{SECRET}@db:port/pervl",
    ],
)
def test_an_address_that_is_none_is_an_error_that_does_not_show_it(team, monkeypatch, url):
    monkeypatch.setenv(POSTGRES_URL, url)
    with pytest.raises(PervlError, match=r"dagster\.yaml needs the address of a Postgres database") as raised:
        check_postgres_url(team / "dagster.yaml")
    assert "postgresql+psycopg2://USER:PASSWORD@HOST:5432/DATABASE" in raised.value.advice
    assert "unmistakable" not in str(raised.value)


def test_the_address_is_no_matter_where_the_instance_has_sqlite(home, monkeypatch):
    monkeypatch.setenv(POSTGRES_URL, SECRET)
    use(home)


def test_without_the_extra_it_is_named(team, monkeypatch):
    monkeypatch.setenv(POSTGRES_URL, f"postgresql+psycopg2://anna:{SECRET}@127.0.0.1:1/pervl")
    monkeypatch.setitem(sys.modules, "dagster_postgres", None)
    with pytest.raises(PervlError, match=r"needs the package dagster_postgres.*\n.*pervl_assets\[postgres\]"):
        use(team)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ('connection to server at "db", port 5432 failed: Connection refused', "Check that its server runs"),
        ("FATAL:  sorry, too many clients already", "has connections left"),
        ('column "x" does not exist\nLINE 1: SELECT x', "dagster instance migrate"),
    ],
)
def test_an_error_of_the_server_has_its_words_and_advice(tmp_path, reason, words):
    psycopg2 = pytest.importorskip("psycopg2")
    with pytest.raises(PervlError, match=words) as raised, explain_database_errors(tmp_path):
        try:
            raise psycopg2.OperationalError(reason)
        except psycopg2.Error as error:
            raise RuntimeError(f"[SQL: INSERT …] [parameters: {SECRET}]") from error
    assert " ".join(reason.split()) in str(raised.value)
    assert SECRET not in str(raised.value)
