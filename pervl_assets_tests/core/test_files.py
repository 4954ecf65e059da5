import errno
import os

import pytest

from pervl_assets.core.errors import PervlError, WriteError, name_some
from pervl_assets.core.files import explain_write_errors, replace_atomically, write_bytes_atomically


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
    ("number", "words"), [(errno.EACCES, "Make the folder writable"), (errno.ENOSPC, "Free some space")]
)
def test_refused_writes_advise(tmp_path, number, words):
    with pytest.raises(WriteError, match=words) as caught, explain_write_errors(tmp_path / "target"):
        raise OSError(number, os.strerror(number), str(tmp_path / "target"))
    assert str(tmp_path / "target") in caught.value.problem


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), explain_write_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "none")


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
