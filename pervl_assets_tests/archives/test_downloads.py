"""Downloads against a real server on 127.0.0.1 that disappoints in every way."""

import contextlib
import email.utils
import errno
import hashlib
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from pervl_assets.archives import downloads
from pervl_assets.archives.downloads import fetch_file, read_record
from pervl_assets.core.errors import ArchiveError, MissingInputError, PervlError, WriteError

CONTENT = bytes(range(256)) * 4000
NEWER = b"newer " + CONTENT
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


class Server(ThreadingHTTPServer):
    """Serves `content`; `script` holds what happens to the next requests, one entry each, before it behaves again.

    An entry is a status with headers, or a number of bytes after which the connection is cut, or a function.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.date, self.ranges = CONTENT, '"v1"', DATE, True
        self.script, self.asked = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append({name.lower(): value for name, value in self.headers.items()})
        step = server.script.pop(0) if server.script else None
        if callable(step):
            step(self)
        elif isinstance(step, tuple):
            self.answer(step[0], b"", step[1])
        else:
            self.serve(cut=step)

    def serve(self, cut=None):
        server, asked = self.server, self.headers
        headers = {"ETag": server.etag, "Last-Modified": server.date}
        headers = {name: value for name, value in headers.items() if value}
        fresh = (asked.get("If-None-Match"), asked.get("If-Modified-Since"))
        if fresh[0] == server.etag or (fresh[0] is None and fresh[1] == server.date):
            return self.answer(304, b"", headers)
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.get("Range", ""))
        if wanted and server.ranges and asked.get("If-Range") in (server.etag, server.date):
            start, size = int(wanted[1]), len(server.content)
            if start >= size:
                return self.answer(416, b"", {"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            return self.answer(206, server.content[start:], headers, cut)
        return self.answer(200, server.content, headers, cut)

    def answer(self, status, body, headers, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304 and "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut is None:
            self.wfile.write(body)
        else:
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)


@pytest.fixture
def server():
    http = Server()
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield http
    http.shutdown()
    http.server_close()


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def fetch(server, tmp_path, pauses):
    def fetch(**options):
        with httpx.Client(timeout=5, trust_env=False) as client:
            return fetch_file(
                options.pop("url", server.url),
                tmp_path / "raw/file.bin",
                tmp_path / "records/file.json",
                client,
                sleep=pauses.append,
                **options,
            )

    return fetch


@pytest.fixture
def target(tmp_path):
    return tmp_path / "raw/file.bin"


def list_leftovers(target):
    return [path.name for path in target.parent.iterdir() if path != target]


def test_a_file_is_fetched_once_and_then_only_asked_after(server, fetch, target):
    reports = []
    first = fetch(on_progress=lambda done, total: reports.append((done, total)))
    assert (first.outcome, first.received, target.read_bytes()) == ("fetched", len(CONTENT), CONTENT)
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert first.record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    before = target.stat().st_mtime_ns
    again = fetch()
    assert (again.outcome, again.received, again.record) == ("unchanged", 0, first.record)
    assert server.asked[1]["if-none-match"] == '"v1"'
    assert server.asked[1]["if-modified-since"] == DATE
    assert {asked["connection"] for asked in server.asked} == {"close"}
    assert target.stat().st_mtime_ns == before
    assert list_leftovers(target) == []


def test_a_download_that_was_taken_away_is_fetched_again(server, fetch, target):
    fetch()
    target.unlink()
    assert fetch().outcome == "fetched"
    assert target.read_bytes() == CONTENT
    assert list_leftovers(target) == []


def test_a_changed_file_replaces_the_old_one(server, fetch, target):
    fetch()
    server.content, server.etag = NEWER, '"v2"'
    assert fetch().outcome == "changed"
    assert target.read_bytes() == NEWER
    assert fetch().outcome == "unchanged"


def test_the_same_bytes_under_another_etag_leave_the_file_alone(server, fetch, target):
    fetch()
    os.utime(target, (1, 1))
    server.etag, server.date = '"moved to another machine"', "Thu, 22 Oct 2015 07:28:00 GMT"
    assert fetch().outcome == "unchanged"
    assert target.stat().st_mtime == 1
    assert fetch().received == 0, "the new ETag is remembered"


@pytest.mark.parametrize("etag", ['"v1"', 'W/"weak"', ""])
def test_cut_connections_are_gone_on_from_where_they_ended(server, fetch, target, etag):
    server.etag = etag
    server.script = [300_000, 200_000, 100_000]
    result = fetch()
    assert (result.outcome, result.received, target.read_bytes()) == ("fetched", len(CONTENT), CONTENT)
    assert [asked.get("range") for asked in server.asked] == [None, "bytes=300000-", "bytes=500000-", "bytes=600000-"]
    assert server.asked[1]["if-range"] == (etag if etag == '"v1"' else DATE)
    assert list_leftovers(target) == []


def test_without_a_version_a_cut_download_begins_again(server, fetch, target):
    server.etag = server.date = ""
    server.script = [300_000]
    assert fetch().received == len(CONTENT) + 300_000
    assert target.read_bytes() == CONTENT


def test_a_file_that_changes_between_two_requests_is_not_mixed(server, fetch, target):
    def cut_and_change(handler):
        handler.serve(cut=300_000)
        server.content, server.etag, server.date = NEWER, '"v2"', "Thu, 22 Oct 2015 07:28:00 GMT"

    server.script = [cut_and_change]
    fetch()
    assert target.read_bytes() == NEWER
    assert read_record(target.parents[1] / "records/file.json").etag == '"v2"'


def test_a_server_without_ranges_sends_all_of_it_again(server, fetch, target):
    server.ranges = False
    server.script = [300_000]
    assert fetch().received == len(CONTENT) + 300_000
    assert target.read_bytes() == CONTENT


def test_a_crash_loses_nothing_that_was_received(server, fetch, target):
    server.script = [300_000, *[(503, {})] * 6]
    with pytest.raises(MissingInputError, match="answers 503") as caught:
        fetch()
    assert "300,000 bytes kept" in str(caught.value)
    assert not target.exists()
    assert fetch().received == len(CONTENT) - 300_000
    assert target.read_bytes() == CONTENT


def test_a_crash_between_the_last_byte_and_the_move_costs_one_question(server, fetch, target):
    def stop(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_whole_then(fetch, stop, target)
    assert fetch().received == 0
    assert target.read_bytes() == CONTENT


def fetch_whole_then(fetch, stop, target):
    """End as a killed process would: nothing is tidied up."""
    partial = target.with_name("file.bin.partial")
    version = target.with_name("file.bin.partial.json")

    def keep(path):
        kept = {file: file.read_bytes() for file in (partial, version)}
        try:
            stop(path)
        finally:
            for file, data in kept.items():
                file.with_name(f"{file.name}.kept").write_bytes(data)

    try:
        fetch(check=keep)
    finally:
        for file in (partial, version):
            file.with_name(f"{file.name}.kept").rename(file)


def test_416_means_that_another_file_stands_there_now(server, fetch, target):
    server.script = [300_000, (416, {"Content-Range": "bytes */1000"})]
    fetch()
    assert target.read_bytes() == CONTENT
    assert "range" not in server.asked[2]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for_as_long_as_it_asks(server, fetch, target, pauses, status):
    soon = email.utils.formatdate(time.time() + 50, usegmt=True)
    server.script = [
        (status, {"Retry-After": "7"}),
        (status, {"Retry-After": soon}),
        (status, {"Retry-After": "99999"}),
    ]
    fetch()
    assert target.read_bytes() == CONTENT
    assert pauses[0] == 7
    assert 40 < pauses[1] <= 50
    assert pauses[2] == 120


def test_pauses_grow_and_tries_end(server, fetch, target, pauses):
    server.script = [(503, {})] * 20
    with pytest.raises(MissingInputError, match="answers 503"):
        fetch(attempts=5)
    assert len(server.asked) == 5
    assert [round(pause / 2**number, 6) for number, pause in enumerate(pauses)] == [
        pytest.approx(1, abs=0.26) for _ in pauses
    ]


def test_progress_gives_new_tries(server, fetch, target):
    server.script = [100_000] * 10
    assert fetch(attempts=2).outcome == "fetched"
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(server, fetch, target, status):
    server.script = [(status, {})]
    with pytest.raises(MissingInputError, match=f"answers {status}"):
        fetch()
    assert len(server.asked) == 1


def test_a_length_that_is_too_long_never_makes_a_whole_file(server, fetch, target):
    def promise_more(handler):
        handler.answer(200, CONTENT, {"Content-Length": str(len(CONTENT) + 10), "ETag": '"v1"'}, cut=len(CONTENT))

    server.script = [promise_more, (503, {}), (503, {})]
    with pytest.raises(MissingInputError):
        fetch(attempts=2)
    assert not target.exists()


def test_a_length_that_is_too_short_is_found_out_by_the_hash(server, fetch, target):
    def promise_less(handler):
        handler.answer(200, CONTENT, {"Content-Length": "1000", "ETag": '"v1"'}, cut=1000)

    server.script = [promise_less]
    with pytest.raises(MissingInputError, match="1,000 bytes with sha256"):
        fetch(sha256=hashlib.sha256(CONTENT).hexdigest())
    assert not target.exists()
    assert list_leftovers(target) == []


@pytest.mark.parametrize("stated", ["bytes 0-1023999/1024000", "bytes 5-7/8", "nonsense"])
def test_an_answer_with_another_part_is_not_added(server, fetch, target, stated):
    server.script = [300_000, (206, {"Content-Range": stated})]
    fetch()
    assert target.read_bytes() == CONTENT


def test_an_answer_to_a_question_without_a_range_is_never_a_part(server, fetch, target):
    server.script = [(206, {"Content-Range": "bytes 0-9/10"})]
    fetch()
    assert target.read_bytes() == CONTENT


def test_packed_answers_are_refused(server, fetch, target):
    server.script = [(200, {"Content-Encoding": "gzip"})]
    with pytest.raises(MissingInputError, match="gzip"):
        fetch()


def test_a_file_put_there_by_hand_stays_and_no_server_is_asked(server, fetch, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    assert fetch().outcome == "by_hand"
    assert (target.read_bytes(), server.asked) == (b"mine", [])


@pytest.mark.parametrize("content", [b"mine", CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x", b""])
def test_a_file_that_differs_from_its_record_is_damage_and_stays(server, fetch, target, content):
    record = fetch().record
    target.write_bytes(content)
    os.utime(target, ns=(record.mtime_ns, record.mtime_ns))
    with pytest.raises(ArchiveError, match="is not the file that was downloaded") as caught:
        fetch()
    assert "records/file.json" in caught.value.advice
    assert (target.read_bytes(), len(server.asked)) == (content, 1)
    target.unlink()
    assert fetch().outcome == "fetched"


def test_a_changed_file_without_its_record_is_used_as_it_is(fetch, target):
    fetch()
    target.write_bytes(b"mine")
    (target.parents[1] / "records/file.json").unlink()
    assert fetch().outcome == "by_hand"


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", "{}", "[" * 5000, '{"url": 3}', "\x00\xff"])
def test_a_damaged_record_is_as_if_absent(fetch, target, text):
    fetch()
    (target.parents[1] / "records/file.json").write_text(text)
    assert fetch().outcome == "by_hand"


def test_a_file_of_the_known_hash_is_not_asked_after(server, fetch):
    known = hashlib.sha256(CONTENT).hexdigest()
    fetch(sha256=known)
    assert fetch(sha256=known).outcome == "unchanged"
    assert len(server.asked) == 1


def test_without_a_network_an_earlier_download_is_kept(server, fetch, target):
    fetch()
    server.script = [(503, {})] * 9
    result = fetch(attempts=3)
    assert (result.outcome, result.stale) == ("unchanged", "the server answers 503")
    assert target.read_bytes() == CONTENT


def test_without_a_network_and_a_file_the_error_advises(server, fetch, target):
    with pytest.raises(MissingInputError, match=r"download it by hand to .*file\.bin"):
        fetch(url="http://127.0.0.1:1/file.bin", attempts=2)


def test_what_the_check_refuses_is_not_put_in_place(server, fetch, target):
    def refuse(path):
        raise ArchiveError(f"{path.name} is no archive.", advice="Look at it.")

    with pytest.raises(MissingInputError, match=r"is not the file it should be: file.bin.partial is no archive\."):
        fetch(check=refuse)
    assert list_leftovers(target) == []
    fetch()
    server.content, server.etag = NEWER, '"v2"'
    assert "is no archive" in fetch(check=refuse).stale
    assert target.read_bytes() == CONTENT
    assert list_leftovers(target) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is empty"),
        (bytes(2000), "is full of zero bytes"),
        (b"\x1f\x8b" + CONTENT, "is a gzip file"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE html><p>Welcome to our Wi-Fi" + CONTENT, "is a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>" + CONTENT, "is a web page"),
        (b"<Error>AccessDenied</Error>" + CONTENT, "is a web page"),
        (b"<note>AccessDenied</note>" + CONTENT, "is a message"),
        (b'{"message": "rate limit exceeded"}' + CONTENT, "is a message"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n" + CONTENT, "is a pointer of Git LFS"),
        (CONTENT[: len(CONTENT) * 9 // 10 - 1], "921,599 bytes, which are cut off or far fewer than the earlier"),
    ],
)
def test_what_is_no_new_version_never_replaces_the_file(server, fetch, target, body, reason):
    fetch()
    server.content, server.etag = body, '"v2"'
    result = fetch()
    assert result.outcome == "unchanged"
    assert reason in result.stale
    assert target.read_bytes() == CONTENT
    assert list_leftovers(target) == []
    server.content, server.etag = NEWER, '"v3"'
    assert fetch().outcome == "changed"


def test_a_text_without_its_last_line_break_is_no_new_version(server, fetch, target):
    server.content = b"one line\n" * 1000
    fetch()
    server.content, server.etag = b"one line\n" * 2000 + b"one li", '"v2"'
    assert "cut off" in fetch().stale
    assert target.read_bytes() == b"one line\n" * 1000


def test_an_error_page_is_no_first_version_either(server, fetch, target):
    server.content = b"<html>"
    with pytest.raises(MissingInputError, match="what the server sends is a web page: b'<html>'"):
        fetch()
    assert not target.exists()
    assert list_leftovers(target) == []


def answer_raw(*parts, pause=0.0):
    """Return an entry of `script` that sends bytes and closes the connection."""

    def answer(handler):
        handler.close_connection = True
        with contextlib.suppress(OSError):
            for part in parts:
                handler.wfile.write(part)
                handler.wfile.flush()
                time.sleep(pause)

    return answer


def test_a_body_whose_end_is_not_told_is_believed_only_with_a_hash(server, fetch, target):
    server.script = [answer_raw(b"HTTP/1.0 200 OK\r\n\r\n", CONTENT)] * 2
    with pytest.raises(MissingInputError, match="does not say where the file ends"):
        fetch()
    assert fetch(sha256=hashlib.sha256(CONTENT).hexdigest()).outcome == "fetched"


CHUNKED = b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\n'


def test_a_body_without_end_is_cut_and_not_kept(server, fetch, target, monkeypatch):
    endless = answer_raw(CHUNKED, *[b"100000\r\n" + bytes(1 << 20) + b"\r\n"] * 50)
    server.script = [endless, endless]
    with pytest.raises(MissingInputError, match="sends more than 3,000,000 bytes"):
        fetch(most_bytes=3_000_000)
    assert list_leftovers(target) == []
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=8 << 20))
    with pytest.raises(MissingInputError, match="sends more than 4,194,304 bytes"):
        fetch()
    assert list_leftovers(target) == []


def test_a_file_that_is_too_large_is_not_begun(server, fetch, target):
    with pytest.raises(MissingInputError, match="announces 1,024,000 bytes, and it has at most 1,000,000"):
        fetch(most_bytes=1_000_000)
    assert list_leftovers(target) == []


def test_pieces_that_are_too_small_are_no_progress(server, fetch):
    server.script = [100] * 50
    with pytest.raises(MissingInputError, match=r"complete message body"):
        fetch(attempts=3)
    assert len(server.asked) <= 4


def test_the_same_piece_again_and_again_is_no_progress(server, fetch):
    server.ranges = False
    server.script = [100_000] * 50
    with pytest.raises(MissingInputError):
        fetch(attempts=3)
    assert len(server.asked) <= 4


def test_a_call_ends_after_its_time_and_keeps_what_it_has(server, fetch, target):
    with pytest.raises(MissingInputError, match="takes too long"):
        fetch(seconds=0.0)
    kept = target.with_name("file.bin.partial").stat().st_size
    assert kept > 0
    assert fetch().received == len(CONTENT) - kept


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", "{}", '{"url": 3}', '{"url": "x", "bytes": "many"}'])
def test_a_damaged_description_of_a_part_is_as_if_absent(server, fetch, target, text):
    target.parent.mkdir()
    target.with_name("file.bin.partial").write_bytes(CONTENT[:1000])
    target.with_name("file.bin.partial.json").write_text(text)
    assert fetch().outcome == "fetched"
    assert "range" not in server.asked[0]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("place", [0, 150_000])
def test_a_part_that_was_damaged_is_not_resumed(server, fetch, target, place):
    break_off(server, fetch)
    partial = target.with_name("file.bin.partial")
    data = bytearray(partial.read_bytes())
    data[place] ^= 1
    partial.write_bytes(data)
    fetch()
    assert "range" not in server.asked[-1]
    assert target.read_bytes() == CONTENT


def test_bytes_behind_the_synced_ones_are_received_again(server, fetch, target):
    break_off(server, fetch)
    with target.with_name("file.bin.partial").open("ab") as file:
        file.write(bytes(5000))
    fetch()
    assert server.asked[-1]["range"] == "bytes=300000-"
    assert target.read_bytes() == CONTENT


def break_off(server, fetch):
    server.script = [300_000, (404, {})]
    with pytest.raises(MissingInputError):
        fetch()


@pytest.mark.parametrize(
    "headers", [{"ETag": '"v2"'}, {"Content-Range": f"bytes 300000-{len(NEWER) - 1}/{len(NEWER)}"}]
)
def test_a_part_of_another_version_is_not_appended(server, fetch, target, headers):
    rest = NEWER[300_000:]
    whole = {"Content-Range": f"bytes 300000-{len(CONTENT) - 1}/{len(CONTENT)}", "ETag": '"v1"'}
    server.script = [300_000, lambda handler: handler.answer(206, rest, whole | headers)]
    fetch()
    assert target.read_bytes() == CONTENT


def test_a_power_loss_costs_the_last_bytes_only(server, fetch, target, monkeypatch):
    monkeypatch.setattr(downloads, "_SYNC_BYTES", 100_000)
    steps = []
    for name in ("sync", "write_bytes_atomically", "move_synced"):
        plain = getattr(downloads, name)
        monkeypatch.setattr(
            downloads, name, lambda path, *more, name=name, do=plain: (steps.append((name, path.name)), do(path, *more))
        )
    fetch()
    first = [("sync", "file.bin.partial"), ("write_bytes_atomically", "file.bin.partial.json")]
    assert len(steps) > 10
    assert steps[:-2] == first * (len(steps[:-2]) // 2)
    assert steps[-2:] == [("write_bytes_atomically", "file.json"), ("move_synced", "file.bin.partial")]


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("value", ['"' + "x" * 9000 + '"', '"\xe9"', "no quotes\xa0"])
def test_a_version_that_cannot_be_sent_back_is_as_if_absent(server, fetch, target, header, value):
    server.etag = server.date = ""
    server.script = [lambda handler: handler.answer(200, CONTENT, {header: value})]
    assert fetch().record.etag == fetch().record.last_modified == ""
    assert {"if-none-match", "if-modified-since", "if-range"}.isdisjoint(server.asked[-1])


@pytest.mark.parametrize("digits", [16, 5000])
def test_numbers_of_absurd_size_are_an_error(server, fetch, target, digits):
    number = "9" * digits
    server.script = [300_000, *[(206, {"Content-Range": f"bytes 300000-1023999/{number}"})], *[(404, {})] * 9]
    with pytest.raises(MissingInputError):
        fetch()
    server.script = [(200, {"Content-Length": number})] * 5
    with pytest.raises(MissingInputError):
        fetch()


@pytest.mark.parametrize("value", ["9" * 400, "Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "soon", "-5", "٣"])
def test_an_absurd_wait_is_bounded(server, fetch, pauses, value):
    server.script = [(503, {"Retry-After": value})]
    fetch()
    assert 0 <= pauses[0] <= 120


@pytest.mark.parametrize("value", ["GZIP", "identity, gzip", "br"])
def test_no_coding_is_accepted(server, fetch, value):
    server.script = [(200, {"Content-Encoding": value})]
    with pytest.raises(MissingInputError, match="compresses"):
        fetch()


def test_what_an_address_asks_with_is_stored_nowhere(server, fetch, target):
    secret = f"{server.url}?token=fluffy"
    server.script = [(404, {})]
    with pytest.raises(MissingInputError) as caught:
        fetch(url=secret)
    server.script = [300_000]
    record = fetch(url=secret).record
    files = [path.read_text() for path in target.parents[1].rglob("*.json")]
    assert "fluffy" not in f"{caught.value} {record} {files}"


def test_a_second_run_is_refused_while_one_is_downloading(server, fetch, target):
    started, go_on = threading.Event(), threading.Event()

    def answer_slowly(handler):
        handler.send_response(200)
        handler.send_header("ETag", '"v1"')
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:500_000])
        handler.wfile.flush()
        started.set()
        go_on.wait(10)
        handler.wfile.write(CONTENT[500_000:])

    server.script.append(answer_slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch)
        assert started.wait(10)
        while not list(target.parent.glob("*.lock")):
            time.sleep(0.01)
        with pytest.raises(WriteError, match="Another run is downloading"):
            fetch()
        go_on.set()
        assert first.result().outcome == "fetched"
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert fetch().outcome == "unchanged"


@pytest.fixture
def crash(fetch, monkeypatch):
    def crash():
        """Fetch, and crash between writing the record and moving the file."""
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(downloads, "move_synced", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            fetch()

    return crash


def test_a_crash_between_record_and_file_is_repaired(crash, fetch, target):
    crash()
    assert not target.exists()
    assert fetch().outcome == "fetched"
    assert target.read_bytes() == CONTENT


def test_a_crash_between_record_and_file_is_repaired_for_a_changed_file(server, crash, fetch, target):
    fetch()
    server.content, server.etag = NEWER, '"v2"'
    crash()
    assert target.read_bytes() == CONTENT
    assert fetch().outcome == "unchanged"
    assert target.read_bytes() == NEWER
    assert list_leftovers(target) == []


def test_a_file_put_there_by_hand_after_a_crash_stays(server, crash, fetch, target):
    fetch()
    server.content, server.etag = NEWER, '"v2"'
    crash()
    target.write_bytes(b"by hand")
    with pytest.raises(ArchiveError, match="is not the file that was downloaded"):
        fetch()
    assert target.read_bytes() == b"by hand"


CALLS = (
    *((os, name) for name in ("fsync", "open", "truncate")),
    *((Path, name) for name in ("exists", "mkdir", "open", "read_bytes", "replace", "stat", "unlink", "write_bytes")),
)


class Body(httpx.SyncByteStream):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield self.data


def fail_at(number, patch):
    """Let the call with this number, of those to the file system, find the disk full. Return the numbers left."""
    left = iter(range(number - 1, -1, -1))

    def count(call):
        def counted(*arguments, **options):
            if next(left, None) == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return counted

    for owner, name in CALLS:
        patch.setattr(owner, name, count(getattr(owner, name)))
    return left


@pytest.mark.parametrize("earlier", [b"", b"old " * 1000])
def test_a_failure_of_any_call_loses_nothing(tmp_path, monkeypatch, earlier):
    new, content = b"new " * 1200, {}

    def answer(request):
        body = content["now"]
        headers = {"ETag": f'"{len(body)}"', "Content-Length": str(len(body))}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return httpx.Response(304)
        if request.headers.get("If-Range") == headers["ETag"]:
            return httpx.Response(416, headers={"Content-Range": f"bytes */{len(body)}"})
        return httpx.Response(200, headers=headers, stream=Body(body))

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        for number in range(1, 200):
            target, record = tmp_path / f"{number}/file.bin", tmp_path / f"{number}/record.json"
            if content.update(now=earlier) or earlier:
                fetch_file("https://host/", target, record, client)
            content["now"] = new
            with monkeypatch.context() as patch, contextlib.suppress(PervlError):
                left = fail_at(number, patch)
                fetch_file("https://host/", target, record, client)
            assert (target.read_bytes() if target.exists() else b"") in (earlier, new)
            fetch_file("https://host/", target, record, client)
            assert target.read_bytes() == new
            if next(left, None) is not None:
                break
    assert number > 40


def test_a_part_that_cannot_be_resumed_leaves_room_for_the_whole_file(server, fetch, target, monkeypatch):
    server.script = [lambda handler: handler.answer(200, CONTENT, {}, cut=len(CONTENT) // 2)]
    server.etag = server.date = ""
    monkeypatch.setattr(downloads, "_PROGRESS", 1)
    free = len(CONTENT) * 3 // 4
    usage = iter([len(CONTENT), free])
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(usage)))
    assert fetch().outcome == "fetched"
