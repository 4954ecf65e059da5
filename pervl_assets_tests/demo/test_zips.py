import shutil
import subprocess
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.demo.zips import encrypt, write_zip

MEMBERS = [("train/", b""), ("train/a.txt", b"first"), ("train/b.bin", bytes(range(256)) * 5), ("train/empty", b"")]


def test_a_plain_zip_reads_back(tmp_path):
    write_zip(tmp_path / "a.zip", MEMBERS)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert [(name, archive.read(name)) for name in archive.namelist()] == MEMBERS
        assert {info.date_time for info in archive.infolist()} == {(2019, 6, 1, 0, 0, 0)}


def test_an_encrypted_zip_reads_back_with_its_password_only(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, MEMBERS, "fluffy")
    with zipfile.ZipFile(path) as archive:
        assert [info.flag_bits & 1 for info in archive.infolist()] == [0, 1, 1, 1]
        for name, data in MEMBERS:
            assert archive.read(name, b"fluffy") == data
        with pytest.raises(RuntimeError, match="password"):
            archive.read("train/a.txt")
        with pytest.raises(RuntimeError, match="Bad password"):
            archive.read("train/a.txt", b"wrong!")
    assert b"first" not in path.read_bytes()


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip(1) is not installed")
def test_unzip_reads_an_encrypted_zip(tmp_path):
    write_zip(tmp_path / "a.zip", MEMBERS, "fluffy")
    assert subprocess.run(["unzip", "-tqq", "-P", "fluffy", tmp_path / "a.zip"], check=False).returncode == 0
    assert subprocess.run(["unzip", "-tqq", "-P", "other", tmp_path / "a.zip"], check=False).returncode != 0


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_zip(tmp_path / name, MEMBERS, "fluffy", seed)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second
    assert first != other


@settings(max_examples=25, deadline=None)
@given(
    members=st.lists(st.tuples(st.binary(max_size=300), st.binary(min_size=12, max_size=12)), max_size=5),
    password=st.binary(min_size=1, max_size=20),
)
def test_encryption_is_undone_by_the_standard_library(members, password):
    encrypted = encrypt([data for data, _ in members], password, [salt for _, salt in members])
    for one, (data, salt) in zip(encrypted, members, strict=True):
        assert zipfile._ZipDecrypter(password)(one) == salt + data


def test_a_failed_write_leaves_no_file(tmp_path):
    def members():
        yield MEMBERS[1]
        raise ValueError("the painter fell ill")

    with pytest.raises(ValueError, match="ill"):
        write_zip(tmp_path / "a.zip", members())
    assert list(tmp_path.iterdir()) == []
