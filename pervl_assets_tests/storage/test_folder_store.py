"""A data root in a folder: of two writers of a value one wins, also when the other one was paused for long."""

import dagster as dg
import pytest

from pervl_assets.core.files import PARTIAL, Lock
from pervl_assets.defs.steps import record_step
from pervl_assets.io_managers import base
from pervl_assets.storage.folder_store import FolderStore
from pervl_assets.testing.runs import explain
from pervl_assets_tests.io_managers.test_io_managers import KEY, KINDS, Kind


@pytest.fixture(params=[name for name in KINDS if name != "raw_archives"])
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def enter(monkeypatch, tmp_path):
    """Go on as another process: each has a store of its own, of the same folder."""
    stores = {}

    def enter_process(name: str) -> FolderStore:
        store = stores.setdefault(name, FolderStore(tmp_path))
        monkeypatch.setattr(base, "open_store", lambda data: store)
        return store

    return enter_process


def write(kind: Kind, data, seed: int) -> str:
    """Write a value as a step does; return why it failed, if it did."""
    context = dg.build_output_context(asset_key=KEY, definition_metadata=kind.metadata)
    try:
        kind.manage(data).handle_output(context, kind.make(data, seed))
    except dg.Failure as failure:
        return str(failure.description)
    return ""


def read_files(data) -> dict[str, bytes]:
    files = (path for path in data.rglob("*") if path.is_file() and path.name != "in.zip")
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in files if PARTIAL not in str(path)}


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_writers_the_second_fails_and_changes_nothing(kind, is_first, enter, tmp_path):
    path = kind.manage(tmp_path).locate(KEY)
    if not is_first:
        assert write(kind, tmp_path, 0) == ""
    enter("orphan").begin(path)
    enter("successor").begin(path)
    assert write(kind, tmp_path, 1) == ""
    before = read_files(tmp_path)
    enter("orphan")
    assert f"Another run has written {path} since this one began" in write(kind, tmp_path, 2)
    assert read_files(tmp_path) == before
    enter("successor")
    assert write(kind, tmp_path, 3) == ""
    assert read_files(tmp_path) != before


def test_a_step_that_was_paused_while_another_wrote_replaces_nothing(kind, enter, tmp_path):
    @dg.asset(key=KEY, io_manager_key="manager", metadata=kind.metadata)
    @record_step
    def orphan() -> dg.MaterializeResult:
        value = kind.make(tmp_path, 2)
        if getattr(value, "lock", None):
            value.lock.release()  # a tree is locked for as long as it is built: there is no second writer
        enter("successor")
        assert write(kind, tmp_path, 1) == ""
        enter("orphan")
        return dg.MaterializeResult(value=value)

    enter("orphan")
    assert write(kind, tmp_path, 0) == ""
    result = dg.materialize([orphan], resources={"manager": kind.manage(tmp_path)}, raise_on_error=False)
    assert "Another run has written" in explain(result)
    enter("reader")
    after = read_files(tmp_path)
    assert write(kind, tmp_path, 1) == ""
    assert read_files(tmp_path) == after


def test_a_value_is_written_under_its_lock(kind, enter, tmp_path):
    enter("a")
    assert write(kind, tmp_path, 0) == ""
    before, path = read_files(tmp_path), kind.manage(tmp_path).locate(KEY)
    with Lock(path.with_name(f"{path.name}{PARTIAL}.lock"), f"writing {path}"):
        assert f"Another run is writing {path} right now" in write(kind, tmp_path, 1)
    assert read_files(tmp_path) == before
    assert write(kind, tmp_path, 1) == ""  # what the first attempt held is free, also its tree
    assert not [*tmp_path.rglob(f"*{PARTIAL}*")]


def test_a_step_may_find_its_own_value_damaged(kind, enter, tmp_path):
    enter("a")
    assert write(kind, tmp_path, 0) == ""
    manager = kind.manage(tmp_path)
    path = manager.locate(KEY)
    path.write_bytes(path.read_bytes()[:-9])
    manager.store.begin(path)
    assert manager.read_previous(KEY) is None
    assert write(kind, tmp_path, 1) == ""
