"""The documentation below `/docs` of the UI: its pages and images, and nothing else; all links lead somewhere."""

import asyncio
import re
from urllib.parse import urljoin

import pytest

from pervl_assets.cli.docs import DOCS_START, Docs, render
from pervl_assets.definitions import defs

LINK = re.compile(r"/docs/([\w/]+\.md)#([\w-]+)")


def get(path, start=None, method="GET"):
    """Return status, headers and body of an answer; the app behind answers 404."""
    answers = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"of Dagster"})

    async def collect(message):
        answers.append(message)

    asyncio.run(Docs(app, start)({"type": "http", "method": method, "path": path}, None, collect))
    return answers[0]["status"], dict(answers[0]["headers"]), answers[1]["body"]


def test_pages_and_images_are_served():
    status, headers, body = get(DOCS_START)
    assert (status, headers[b"content-type"]) == (200, b"text/html; charset=utf-8")
    assert b"default-src 'none'" in headers[b"content-security-policy"]
    assert b'<h2 id="jobs">Jobs</h2>' in body
    assert b'<a href="/docs/fidelity.md">fidelity</a>' in body
    assert b"from the definitions" not in body  # comments
    status, headers, body = get("/docs/run.png")
    assert (status, headers[b"content-type"], body[:4]) == (200, b"image/png", b"\x89PNG")


@pytest.mark.parametrize(
    "path", ["/docs/../pyproject.toml", "/docs//etc/passwd", "/docs/none.md", "/docs/assets/none.png"]
)
def test_what_is_no_page_is_not_found_and_all_pages_are_linked(path):
    status, headers, body = get(path)
    assert (status, headers[b"content-type"]) == (404, b"text/html; charset=utf-8")
    assert b"No such page" in body
    assert b'<a href="/docs/operating.md">operating</a>' in body


@pytest.mark.parametrize("path", ["/assets/docs/run.png", "/docsx", "/"])
def test_everything_else_is_dagsters(path):
    assert get(path)[::2] == (404, b"of Dagster")
    assert get(DOCS_START, method="POST")[0] == 404


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_folder_opens_its_first_page(path):
    assert get(path)[:2] == (307, {b"location": DOCS_START.encode()})


def test_every_link_between_pages_leads_to_a_page():
    waiting, seen = {DOCS_START}, set()
    while waiting:
        seen.add(page := waiting.pop())
        status, _, body = get(page)
        assert status == 200, page
        links = {urljoin(page, link).partition("#")[0] for link in re.findall('(?:href|src)="([^"]+)"', body.decode())}
        waiting |= {link for link in links if not link.startswith("http") and not link.endswith(".png")} - seen
    assert {"/docs/assets/README.md", "/docs/assets/ytvos.md", "/docs/security.md"} <= seen


def test_the_start_page_is_another_one():
    assert get("/", "/jobs")[:2] == (307, {b"location": b"/jobs"})


def test_html_in_a_page_is_text():
    page = render("# A <b>title</b>\n\n<script>alert(1)</script>\n\n| A1 | x |\n| --- | --- |\n| A2 | y |")
    assert "<script" not in page
    assert "<b>" not in page
    assert '<td id="A2">A2</td>' in page


def test_links_of_descriptions_lead_to_a_heading_or_rule():
    graph = defs.resolve_asset_graph()
    texts = [node.description or "" for node in graph.asset_nodes]
    texts += [node.metadata["docs"].value for node in graph.asset_nodes]
    texts += [job.description or "" for job in defs.resolve_all_job_defs() if not job.name.startswith("__")]
    links = {found for text in texts for found in LINK.findall(text)}
    assert len(links) > 50
    bodies = {page: get(f"/docs/{page}")[2].decode() for page, _ in links}
    assert [(page, anchor) for page, anchor in sorted(links) if f'id="{anchor}"' not in bodies[page]] == []
