"""The archive's password is in nothing that a run writes or says, neither in a failing run nor in one that passes."""

import base64
import os
import sqlite3
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets.testing.hostile import change_password
from pervl_assets.testing.worlds import copy_raw
from pervl_assets_tests.cli.forked import run_pervl

pytestmark = pytest.mark.timeout(300)

RIGHT = "Zq7-unmistakable-Kx9"
WRONG = "Wv3-mistaken-Jp5"


def read_contents(file: Path) -> Iterator[bytes]:
    """Yield a file's bytes, and of a database every cell, unpacked: Dagster keeps descriptions of jobs compressed."""
    data = file.read_bytes()
    yield data
    with suppress(zlib.error):
        yield zlib.decompress(data, wbits=47)
    if data.startswith(b"SQLite format 3\0"):
        with closing(sqlite3.connect(file)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608
                    for cell in row:
                        content = cell if isinstance(cell, bytes) else str(cell).encode()
                        yield content
                        with suppress(zlib.error):
                            yield zlib.decompress(content)


def find_secret(root: Path, secret: str) -> list[str]:
    """Return the files below a folder that hold a secret, as it is or in base64 or hexadecimal."""
    forms = [secret.encode(), base64.b64encode(secret.encode()).rstrip(b"="), secret.encode().hex().encode()]
    return [
        str(file)
        for file in sorted(root.rglob("*"))
        if file.is_file() and any(form in content for content in read_contents(file) for form in forms)
    ]


@pytest.fixture(scope="module")
def runs(synthetic_raw, tmp_path_factory):
    """A project whose archive has a password of its own; `pervl materialize` with the wrong one, then the right one."""
    root = tmp_path_factory.mktemp("secrets")
    change_password(copy_raw("deep_fashion2_train", synthetic_raw, root / "data"), DEMO_PASSWORD, RIGHT)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PERVL_", "DAGSTER_"))}
    env |= {"PERVL_DATA": str(root / "data"), "DAGSTER_HOME": str(root / "home"), "PERVL_EXECUTOR": "in_process"}

    def run(password: str) -> subprocess.CompletedProcess[str]:
        command = ("materialize", "--select", '+key:"deep_fashion/personalized"')
        return run_pervl(command, root, env | {"DEEPFASHION2_PASSWORD": password})

    return root, run(WRONG), run(RIGHT)


def test_the_wrong_password_fails_and_the_right_one_passes(runs):
    root, failed, passed = runs
    assert failed.returncode == 1
    assert "The password does not open" in failed.stdout
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert list((root / "data/deep_fashion2/personalized_test/eval/test").iterdir())


def test_neither_is_in_anything_that_was_written_or_said(runs):
    root, failed, passed = runs
    databases = [path for path in (root / "home").rglob("*.db") if path.stat().st_size]
    assert databases  # the runs' events are below this home, so they are searched, too
    for secret in (RIGHT, WRONG):
        assert find_secret(root, secret) == []
        for done in (failed, passed):
            assert secret not in done.stdout + done.stderr


def test_the_search_finds_what_is_hidden(tmp_path):
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.execute("CREATE TABLE snapshots (body BLOB)")
        database.execute("INSERT INTO snapshots VALUES (?)", [zlib.compress(f'{{"p": "{RIGHT}"}}'.encode())])
        database.commit()
    (tmp_path / "plain.log").write_text(f"password={RIGHT}")
    (tmp_path / "encoded").write_bytes(base64.b64encode(RIGHT.encode()))
    (tmp_path / "innocent").write_text("nothing")
    assert [Path(name).name for name in find_secret(tmp_path, RIGHT)] == ["encoded", "plain.log", "runs.db"]
