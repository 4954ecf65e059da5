import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest
import yaml

from pervl_assets.archives.official_files import (
    compare_folder,
    count_entries,
    fetch_files,
    load_manifest,
    require_files,
)
from pervl_assets.core.errors import AnnotationError, MissingInputError
from pervl_assets.defs.resources import ANNOTATIONS

FILES = {"ytvos/a.csv": b"h\n1\n2\n", "ytvos/b.yaml": b"x:\n  y: 1\nz: 2\n", "deep/c.txt": b"one\n\ntwo\n"}


@pytest.fixture
def server():
    """A server on 127.0.0.1; `answers` says what it gives for a path: bytes, or a status."""

    class Handler(BaseHTTPRequestHandler):
        answers: ClassVar[dict] = {}
        asked: ClassVar[list] = []

        def do_GET(self):
            self.asked.append(self.path)
            answer = self.answers.get(self.path, 404)
            body = answer if isinstance(answer, bytes) else b"no"
            self.send_response(200 if isinstance(answer, bytes) else answer)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    Handler.answers, Handler.asked = {f"/{name}": data for name, data in FILES.items()}, []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield http
    http.shutdown()
    http.server_close()


@pytest.fixture
def manifest(server, tmp_path):
    path = tmp_path / "manifest.yaml"
    content = {
        "repository": "NVlabs/PerVLBenchmark",
        "commit": "06ec7a6938cfab368310bc75cfb09b949b94ead5",
        "base_url": f"http://127.0.0.1:{server.server_port}/",
        "licence": "CC",
        "files": [
            {"path": name, "bytes": len(data), "rows": 2, "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in FILES.items()
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return load_manifest(path)


@pytest.fixture
def client():
    with httpx.Client(trust_env=False) as http:
        yield http


def test_fetches_what_is_missing_or_different_and_only_that(server, manifest, tmp_path, client):
    folder, calls = tmp_path / "out", []
    (folder / "ytvos").mkdir(parents=True)
    (folder / "ytvos/a.csv").write_bytes(FILES["ytvos/a.csv"])
    (folder / "ytvos/b.yaml").write_bytes(b"other")
    report = fetch_files(folder, manifest, client, on_progress=lambda *numbers: calls.append(numbers))
    assert sorted(report.official) == sorted(FILES)
    assert sorted(server.RequestHandlerClass.asked) == ["/deep/c.txt", "/ytvos/b.yaml"]
    assert calls == [(1, 2), (2, 2)]
    fetch_files(folder, manifest, client)
    assert len(server.RequestHandlerClass.asked) == 2


def test_a_fetched_file_that_was_changed_is_fetched_again(manifest, tmp_path, client):
    folder = tmp_path / "out"
    fetch_files(folder, manifest, client)
    (folder / "deep/c.txt").write_bytes(b"spoiled")
    assert sorted(fetch_files(folder, manifest, client).official) == sorted(FILES)


def test_names_every_file_that_cannot_be_fetched(server, manifest, tmp_path, client):
    server.RequestHandlerClass.answers = {"/ytvos/a.csv": FILES["ytvos/a.csv"], "/ytvos/b.yaml": 503}
    with pytest.raises(MissingInputError, match="2 of 3 annotation files") as caught:
        fetch_files(tmp_path / "out", manifest, client, attempts=1)
    assert "503" in str(caught.value)
    assert "deep/c.txt" in str(caught.value)
    assert "PERVL_ANNOTATIONS" in caught.value.advice
    assert (tmp_path / "out/ytvos/a.csv").is_file()


def test_refuses_other_content_and_keeps_none_of_it(server, manifest, tmp_path, client):
    server.RequestHandlerClass.answers["/deep/c.txt"] = b"<html>log in</html>"
    with pytest.raises(MissingInputError, match=r"deep/c\.txt could not be downloaded: .* at most 9"):
        fetch_files(tmp_path / "out", manifest, client)
    assert not list((tmp_path / "out/deep").iterdir())


def test_unreachable_server_advises(manifest, server, tmp_path, client):
    server.shutdown()
    server.server_close()
    with pytest.raises(MissingInputError, match="3 of 3"):
        fetch_files(tmp_path / "out", manifest, client, attempts=1)


def test_own_folder_may_differ_but_not_lack_files(manifest, tmp_path):
    for name, data in FILES.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(data)
    (tmp_path / "own/ytvos/a.csv").write_bytes(b"h\n1\n")
    assert require_files(tmp_path / "own", manifest, "PERVL_ANNOTATIONS").different == ("ytvos/a.csv",)
    (tmp_path / "own/deep/c.txt").unlink()
    with pytest.raises(MissingInputError, match=r"1 of 3 annotation files not in .*deep/c\.txt") as caught:
        require_files(tmp_path / "own", manifest, "PERVL_ANNOTATIONS")
    assert "unset PERVL_ANNOTATIONS to have" in caught.value.advice


@pytest.mark.parametrize("name", ["../outside.csv", "/etc/passwd"])
def test_manifest_may_not_name_paths_outside(tmp_path, name):
    path = tmp_path / "m.yaml"
    entry = {"path": name, "bytes": 1, "rows": 1, "sha256": "0"}
    content = {"repository": "r", "commit": "c", "base_url": "u", "licence": "l", "files": [entry]}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(AnnotationError, match="outside its folder"):
        load_manifest(path)


@pytest.mark.parametrize(
    "text", ["files: 3", "[1, 2]", "a: [", "!!python/object/apply:os.getcwd []", "archives: {a: [{size: 3}]}"]
)
def test_broken_manifest(tmp_path, text):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(AnnotationError, match="cannot be read"):
        load_manifest(tmp_path / "m.yaml")


def test_the_projects_manifest_pins_the_official_files():
    manifest = load_manifest(ANNOTATIONS / "manifest.yaml")
    assert manifest.commit == "06ec7a6938cfab368310bc75cfb09b949b94ead5"
    assert manifest.base_url.startswith("https://")
    assert manifest.commit in manifest.base_url
    assert len(manifest.files) == 11


def test_the_manifest_tells_the_real_annotations(shared):
    manifest = load_manifest(ANNOTATIONS / "manifest.yaml")
    folder = shared / "data/annotations"
    assert len(compare_folder(folder, manifest).official) == 11
    assert {file.path: file.rows for file in manifest.files} == {
        file.path: count_entries(folder / file.path) for file in manifest.files
    }
