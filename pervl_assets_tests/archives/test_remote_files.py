"""Files at addresses: ranges of one version, from servers that fail, change their files, or lie."""

import io
import random

import pytest

from pervl_assets.archives import remote_servers
from pervl_assets.archives.http_get import open_client
from pervl_assets.archives.remote_files import RemoteReader, Version, find_version, look_for, receive_range
from pervl_assets.core.errors import AddressError, ArchiveError, MissingInputError, NoAnswerError
from pervl_assets_tests.archives.range_server import serve_ranges

DATA = random.Random(1).randbytes(300_000)


@pytest.fixture
def server(monkeypatch):
    with serve_ranges(monkeypatch) as server:
        server.files["a.bin"] = DATA
        yield server


@pytest.fixture(params=["http", "s3"])
def scheme(request):
    return request.param


def receive(address, version, start, end):
    blocks = {}
    receive_range(address, version, start, end, blocks.__setitem__)
    assert sum(map(len, blocks.values())) <= end - start
    data = bytearray(end - start)
    for at, block in blocks.items():
        data[at - start : at - start + len(block)] = block
    return bytes(data)


def test_a_version_and_ranges_are_one_request_each(server, scheme):
    address = server.address(scheme, "a.bin")
    version = find_version(address)
    assert version.bytes == len(DATA)
    assert [receive(address, version, *span) for span in ((0, 1), (5, 200_000), (299_999, 300_000))] == [
        DATA[0:1],
        DATA[5:200_000],
        DATA[299_999:],
    ]
    assert len(server.requests) == 4
    assert server.sent <= 1 + 1 + 199_995 + 1


def test_a_reader_reads_as_a_file_does_with_few_requests(server, scheme):
    address = server.address(scheme, "a.bin")
    file, plain = RemoteReader(address, find_version(address)), io.BytesIO(DATA)
    for offset, whence, size in [(-22, 2, 22), (-60_000, 2, 50_000), (7, 0, 4), (9, 0, 40), (0, 2, 9), (0, 0, 1 << 20)]:
        assert file.seek(offset, whence) == plain.seek(offset, whence)
        assert file.read(size) == plain.read(size)
        assert file.read(3) == plain.read(3)
    assert len(server.requests) == 1 + 4


def test_what_is_not_there(server, scheme):
    address = server.address(scheme, "b.bin")
    assert look_for(address) is None
    with pytest.raises(MissingInputError, match=str(address)):
        find_version(address)


def test_a_file_that_changes_or_goes_is_noticed(server, scheme):
    address = server.address(scheme, "a.bin")
    version = find_version(address)
    server.files["a.bin"] = DATA[::-1]
    with pytest.raises(ArchiveError, match=r"a\.bin was replaced or changed while it was read"):
        receive(address, version, 5, 10)
    del server.files["a.bin"]
    with pytest.raises(ArchiveError, match="replaced or changed"):
        receive(address, version, 5, 10)


def test_a_weak_etag_is_compared(server):
    address = server.address("http", "a.bin")
    server.mode = "weak"
    version = find_version(address)
    assert receive(address, version, 5, 10) == DATA[5:10]
    server.files["a.bin"] = DATA[::-1]
    with pytest.raises(ArchiveError, match="replaced or changed"):
        receive(address, version, 5, 10)


def test_failures_for_a_moment_are_retried_from_where_they_happened(server, scheme):
    address = server.address(scheme, "a.bin")
    version = find_version(address)
    server.fail, server.cut = 1, 1
    assert receive(address, version, 1000, 201_000) == DATA[1000:201_000]
    assert server.sent <= 200_001


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [
        ("whole", AddressError, "serves no parts of"),
        ("shifted", AddressError, "parts|GenericError"),
        ("long", AddressError, "more or fewer bytes"),
        ("short", AddressError, "read|fewer"),
        ("endless", AddressError, "more or fewer bytes"),
        ("no version", ArchiveError, "changed"),
        ("redirect", AddressError, "redirects|connection"),
        (416, (AddressError, ArchiveError), "416|changed"),
        (403, AddressError, "403|refuses"),
        (500, NoAnswerError, "500"),
    ],
)
def test_wrong_answers_are_errors_and_bounded(server, scheme, mode, error, words):
    address = server.address(scheme, "a.bin")
    version = find_version(address)
    server.mode = mode
    with pytest.raises(error, match=words) as caught:
        receive(address, version, 1000, 2000)
    assert mode != 403 or not caught.value.is_temporary
    assert server.sent < 64 << 20


def test_a_server_that_does_not_answer_is_given_up(server, monkeypatch):
    address = server.address("http", "a.bin")
    version = find_version(address)
    monkeypatch.setattr(remote_servers, "_open_client", lambda: open_client(read_seconds=0.1))
    server.delay = 0.5
    server.requests.clear()
    with pytest.raises(NoAnswerError, match=r"a\.bin cannot be read"):
        receive(address, version, 0, 10)
    assert len(server.requests) == 5


@pytest.mark.parametrize("mode", ["whole", "no version"])
def test_a_server_without_ranges_or_versions_is_refused_at_once(server, mode):
    server.mode = mode
    with pytest.raises(AddressError, match=r"no parts|neither an ETag nor a date") as caught:
        find_version(server.address("http", "a.bin"))
    assert "Download the file" in str(caught.value)


def test_an_empty_file_at_an_address(server):
    server.files["a.bin"] = b""
    with pytest.raises(ArchiveError, match="is empty"):
        find_version(server.address("http", "a.bin"))
    assert find_version(server.address("s3", "a.bin")) == Version(0, '"d41d8cd98f00b204e9800998ecf8427e"')
