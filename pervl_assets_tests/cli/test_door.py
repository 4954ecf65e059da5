"""The door of the UI: every request of its own pages passes, and none of another page does."""

import asyncio

import pytest

from pervl_assets.cli.door import Door, list_hosts
from pervl_assets.core.errors import PervlError

HOST = "127.0.0.1:3000"
OWN = f"http://{HOST}"
JSON = {"content-type": "application/json"}
SAME = {"origin": OWN, "sec-fetch-site": "same-origin"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
PAGE = {"accept": "text/html,*/*;q=0.8"}
MATERIALIZED = "/report_asset_materialization/palavra/names"


def send(method="GET", path="/", headers=None, *, host=HOST, kind="http", raw_path=None, more=()):
    """Send one request through the door; return its answer, which is `served` by the app behind it."""
    named = {"host": host, **(headers or {})}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "raw_path": raw_path or path.encode(),
        "headers": [*((name.encode(), value.encode()) for name, value in named.items() if value is not None), *more],
    }
    answers = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200} if kind == "http" else {"type": "websocket.accept"})
        await send({"type": "http.response.body", "body": b"served"})

    async def collect(message):
        answers.append(message)

    asyncio.run(Door(app, list_hosts("127.0.0.1", 3000, ["Dagster.example.org"]))(scope, None, collect))
    return answers


def is_served(*args, **kwargs) -> bool:
    first, *rest = send(*args, **kwargs)
    if first["type"] == "http.response.start":
        refused = rest[0]["body"].startswith(b"403 refused: ")
        assert refused == (first["status"] == 403)
        return not refused
    assert first["type"] == "websocket.accept" or (first["type"], first["code"]) == ("websocket.close", 1008)
    return first["type"] == "websocket.accept"


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/"),
        ("HEAD", "/assets/ytvos/fsl_seg"),
        ("GET", "/assets/ytvos/fsl_seg", LINK | PAGE),
        ("GET", "/main.js", {**SAME, "accept": "*/*"}),
        ("GET", "/graphql", PAGE),
        ("POST", "/graphql", SAME | JSON),
        ("POST", "/graphql", {"content-type": "application/json; charset=utf-8"}),
        ("POST", MATERIALIZED, SAME | JSON),
    ],
    ids=str,
)
def test_requests_of_the_ui_and_of_scripts_are_served(request_):
    assert is_served(*request_)


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "LOCALHOST:3000", "[::1]:3000", "dagster.example.org"])
def test_every_name_of_the_server_is_served(host):
    for scheme in ("http", "https"):
        assert is_served("POST", "/graphql", JSON | {"origin": f"{scheme}://{host}"}, host=host)
        assert is_served(path="/graphql", headers={"origin": f"{scheme}://{host}"}, host=host, kind="websocket")


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", "evil.example:3000", "127.0.0.1", "localhost:3001", "localhost.:3000", "127.1:3000"),
        *("127.0.0.1:3000.evil.example", "evil.example@127.0.0.1:3000", "dagster.example.org:80", "\xa0localhost:3000"),
    ],
)
def test_another_host_is_refused(host):
    for kind in ("http", "websocket"):
        assert not is_served(host=host, kind=kind, path="/graphql", headers=PAGE)


@pytest.mark.parametrize(
    "foreign",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": f"{OWN}.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": OWN, "sec-fetch-site": "cross-site"},
        LINK,
    ],
    ids=str,
)
def test_another_page_changes_nothing(foreign):
    assert not is_served("POST", "/graphql", JSON | foreign)
    assert not is_served("POST", MATERIALIZED, JSON | foreign)
    assert not is_served(path="/graphql", headers=foreign, kind="websocket")


def test_another_page_embeds_nothing():
    for destination in ("image", "script", "iframe", "empty"):
        assert not is_served("GET", "/server_info", {"sec-fetch-site": "cross-site", "sec-fetch-dest": destination})
    assert not is_served("GET", "/", LINK | {"sec-fetch-dest": "iframe"})
    start, *_ = send()
    assert dict(start["headers"])[b"x-frame-options"] == b"SAMEORIGIN"


@pytest.mark.parametrize("accept", [None, "*/*", "image/avif,image/webp,*/*", "application/json", "TEXT/HTML"])
def test_no_get_reaches_graphql_but_that_of_its_page(accept):
    for path in ("/graphql", "/graphql/", MATERIALIZED):
        assert not is_served("GET", path, {"accept": accept, "sec-fetch-site": "same-origin"})
    assert not is_served("GET", MATERIALIZED, PAGE)


@pytest.mark.parametrize(
    "kind",
    [
        *(None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        *("application/graphql", "text/plain; application/json", "application/jsonx", "APPLICATION/JSON"),
    ],
)
def test_a_post_is_json(kind):
    for path in ("/graphql", MATERIALIZED):
        assert not is_served("POST", path, SAME | {"content-type": kind})


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"])
def test_other_methods_are_refused(method):
    assert not is_served(method, "/graphql", SAME | JSON)


def test_what_readers_may_read_in_two_ways_is_refused():
    for name in (b"host", b"Host", b"origin", b"content-type", b"sec-fetch-site"):
        assert not is_served("POST", "/graphql", SAME | JSON, more=[(name, b"evil.example")])
    assert not is_served(raw_path=b"http://evil.example/")


def test_forwarded_names_change_nothing():
    forwarded = {"x-forwarded-host": HOST, "forwarded": f"host={HOST}"}
    assert not is_served(headers=forwarded, host="evil.example")
    assert is_served(headers={"x-forwarded-host": "evil.example"})


def test_the_answer_says_why_and_obeys_no_control_character():
    _, body = send(host="evil\x1b[2J.example")
    assert r"evil\\x1b[2j.example" in body["body"].decode()
    assert "--allow-host" in body["body"].decode()


@pytest.mark.parametrize("name", ["*", "https://a.example", "a b", "", "a.example:https", "*.example.org"])
def test_an_allowed_host_is_a_host(name):
    with pytest.raises(PervlError, match="is not a host name"):
        list_hosts("127.0.0.1", 3000, [name])


def test_hosts_follow_the_address():
    assert "10.0.0.5:3000" in list_hosts("10.0.0.5", 3000)
    assert {"[fe80::1]:80", "[fe80::1]", "localhost"} <= list_hosts("fe80::1", 80)
