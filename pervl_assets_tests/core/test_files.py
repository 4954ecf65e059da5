import errno
import os
from pathlib import Path

import pytest

from pervl_assets.core import files
from pervl_assets.core.errors import ArchiveError, PervlError, WriteError, name_some
from pervl_assets.core.files import (
    Lock,
    explain_errors,
    explain_read_errors,
    explain_write_errors,
    is_locked,
    is_whole,
    replace_atomically,
    write_bytes_atomically,
)


def test_unchanged_content_keeps_its_modification_time(tmp_path):
    target = tmp_path / "folder" / "file"
    assert write_bytes_atomically(target, b"one")
    os.utime(target, (1, 1))
    assert not write_bytes_atomically(target, b"one")
    with replace_atomically(target) as partial:
        partial.write_bytes(b"one")
    assert target.stat().st_mtime == 1
    assert write_bytes_atomically(target, b"two")
    assert target.read_bytes() == b"two"


def test_failure_leaves_the_old_file_and_nothing_unfinished(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def fail():
        with replace_atomically(target) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "Make the folder writable"),
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENAMETOOLONG, "shorter path"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EXDEV, "another one"),
        (errno.EBUSY, "unmount"),
        (errno.EISDIR, "Move it away"),
        (errno.ENOENT, "Check that"),
        (errno.ESTALE, "the disk or mount"),
        (999, "the disk or mount"),
    ],
)
def test_every_error_of_the_system_is_explained_with_its_own_advice(tmp_path, number, words):
    for explain, kind in ((explain_write_errors, WriteError), (explain_read_errors, ArchiveError)):
        with pytest.raises(kind, match=words) as caught, explain(tmp_path):
            raise OSError(number, os.strerror(number), str(tmp_path / "target"))
        assert str(tmp_path / "target") in caught.value.problem
        with pytest.raises(kind) as caught, explain(tmp_path / "named"):
            raise OSError(number, os.strerror(number))
        assert str(tmp_path / "named") in caught.value.problem


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_no_permission_has_other_advice_for_reading_than_for_writing(tmp_path, number):
    for explain, words in ((explain_write_errors, "Make the folder writable"), (explain_read_errors, "to read")):
        with pytest.raises(PervlError, match=words) as caught, explain(tmp_path):
            raise OSError(number, os.strerror(number), str(tmp_path / "target"))
        assert str(tmp_path / "target") in caught.value.problem


def test_errors_of_polars_are_explained_by_the_number_in_their_text():
    with pytest.raises(PervlError, match=r"No space|disk is full.*\n.*Free some space"), explain_errors():
        raise OSError("No space left on device (os error 28): /data/kitten.parquet")


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ConnectionError()])
def test_an_error_without_a_path_or_a_text_is_explained_in_a_sentence(error):
    with pytest.raises(PervlError) as caught, explain_errors():
        raise error
    assert caught.value.problem in (
        "A file cannot be read or written: Broken pipe.",
        "A file cannot be read or written: ConnectionError.",
    )
    assert caught.value.advice.startswith("Check that the file exists")


def test_a_file_that_cannot_be_checked_for_want_of_descriptors_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(number):
        def fail(*_):
            raise OSError(number, os.strerror(number))

        return fail

    (tmp_path / "file").write_bytes(b"one")
    monkeypatch.setattr(files, "hash_file", refuse(errno.EIO))
    assert not is_whole(tmp_path / "file", 3, "")
    monkeypatch.setattr(files, "hash_file", refuse(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        is_whole(tmp_path / "file", 3, "")


def test_write_where_a_file_stands_in_the_folders_place(tmp_path):
    (tmp_path / "blocked").write_bytes(b"")
    with pytest.raises(WriteError, match="a file where a folder is needed"):
        write_bytes_atomically(tmp_path / "blocked" / "file", b"x")


def test_errors_say_problem_details_and_advice():
    error = PervlError("3 things are wrong.", details=["a", "b"], advice="Fix them.")
    assert str(error) == "3 things are wrong.\n  a\n  b\nWhat to do: Fix them."


def test_errors_cross_a_process_boundary():
    import copy

    twin = copy.copy(WriteError("no room", advice="make some", details=["x"]))  # uses __reduce__, as pickling does
    assert (type(twin), twin.problem, twin.advice, twin.details) == (WriteError, "no room", "make some", ("x",))


def test_name_some():
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(range(4128), shown=2) == "0, 1 and 4,126 more"


def test_what_a_killed_process_left_beside_a_file_is_removed(tmp_path):
    target = tmp_path / "file"
    with replace_atomically(target) as partial:
        stem = partial.name.removesuffix(str(os.getpid()))
        partial.write_bytes(b"new")
        dead, alive = partial.with_name(f"{stem}{2**22 + 1}"), partial.with_name(f"{stem}{os.getppid()}")
        dead.touch()
        alive.touch()
    write_bytes_atomically(target, b"newer")
    assert sorted(tmp_path.iterdir()) == sorted([target, alive])


def test_a_file_is_synced_before_its_rename_and_new_folders_with_it(tmp_path, monkeypatch):
    done, replace, fsync = [], Path.replace, os.fsync

    def note_replace(source, target):
        done.append(f"{target.name} replaced")
        return replace(source, target)

    def note_fsync(file):
        done.append(Path(f"/proc/self/fd/{file}").readlink().name.partition(".partial")[0])
        fsync(file)

    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(os, "fsync", note_fsync)
    write_bytes_atomically(tmp_path / "new" / "deep" / "file", b"one")
    assert done == [tmp_path.name, "new", ".file", "file replaced", "deep"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_bytes_atomically(tmp_path / "file", b"one")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_a_lock_is_seen_by_others_until_it_is_released(tmp_path):
    assert not is_locked(tmp_path / "lock")
    with Lock(tmp_path / "lock", "drawing kittens"):
        assert is_locked(tmp_path / "lock")
        with pytest.raises(WriteError, match="Another run is drawing kittens"):
            Lock(tmp_path / "lock", "drawing kittens")
    assert not (tmp_path / "lock").exists()
    (tmp_path / "lock").touch()
    assert not is_locked(tmp_path / "lock")
