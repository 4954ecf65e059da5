"""The documentation as pages below `/docs` of the UI, so that what the UI says can link to it."""

import html
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

from pervl_assets.cli.door import App, Message, Receive, Send

_DOCS: Final = Path(__file__).parents[1] / "docs"
"""A link to the folder at the top; in an installed package, a folder."""

_ROOT: Final = "/docs/"
DOCS_START: Final = f"{_ROOT}operating.md"
"""Address of the page that a user of the UI reads first."""

_ASSETS: Final = "assets/README.md"
"""The page that leads to the pages of all assets."""

_KINDS: Final = {
    ".md": "text/html; charset=utf-8",
    ".png": "image/png",
    ".yaml": "text/plain; charset=utf-8",
}
_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
)
_COMMENT: Final = re.compile("<!--.*?-->", re.DOTALL)
_HEADING: Final = re.compile(r"<h(\d)>(.*?)</h\1>")
_RULE: Final = re.compile(r"<td>([A-Z]\d+)</td>")
_TAG: Final = re.compile("<[^>]*>")

_NO_PAGE: Final = "# No such page\n\nAll pages are linked above."
_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
html {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ border: 1px solid #8886; padding: .3rem .6rem; vertical-align: top; text-align: left }}
pre {{ overflow-x: auto; padding: .6rem; background: #8882 }}
img {{ max-width: 100% }}
:target {{ background: #fe08 }}
</style>
<nav>{links}</nav>
{body}
</html>
"""


class Docs:
    """ASGI app that serves the pages, images and settings of `docs`, and passes everything else on to `app`.

    Args:
        app: Dagster's web server.
        start: Page of the UI that its address opens; None: the one that Dagster opens.
    """

    def __init__(self, app: App, start: str | None = None) -> None:
        self._app, self._start = app, start
        self._files = {
            path.relative_to(_DOCS).as_posix(): path for path in sorted(_DOCS.rglob("*")) if path.suffix in _KINDS
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = scope.get("path", "") if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else ""
        name = path.removeprefix(_ROOT)
        to = DOCS_START if path in (_ROOT, _ROOT.rstrip("/")) else self._start if path == "/" else None
        if to:
            await _answer(send, 307, b"", [(b"location", to.encode())])
        elif path.startswith(_ROOT):
            file = self._files.get(name)
            kind = _KINDS[file.suffix if file else ".md"]
            headers = [(b"content-type", kind.encode()), *_HEADERS]
            await _answer(send, 200 if file else 404, self._read(file), headers)
        else:
            await self._app(scope, receive, send)

    def _read(self, file: Path | None) -> bytes:
        if file and file.suffix != ".md":
            return file.read_bytes()
        return render(file.read_text("utf-8") if file else _NO_PAGE, self._files).encode()


def render(text: str, names: Collection[str] = ()) -> str:
    """Return a page of the documentation as HTML; headings have the anchors of GitHub, numbered rules their number.

    Args:
        text: Its markdown.
        names: Files of the documentation: its pages at the top, and that of the assets, are linked.
    """
    from markdown_it import MarkdownIt

    def mark(found: re.Match[str]) -> str:
        words = html.unescape(_TAG.sub("", found[2])).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        return f'<h{found[1]} id="{anchor}">{found[2]}</h{found[1]}>'

    body: Any = MarkdownIt("commonmark", {"html": False}).enable("table").render(_COMMENT.sub("", text))
    body = _RULE.sub(r'<td id="\1">\1</td>', _HEADING.sub(mark, body))
    pages = {name: name.removesuffix(".md") for name in names if name.endswith(".md") and "/" not in name}
    pages |= {_ASSETS: "assets"} if _ASSETS in names else {}
    ordered = sorted(pages.items(), key=lambda page: page[1])
    links = " · ".join(f'<a href="{_ROOT}{name}">{html.escape(shown)}</a>' for name, shown in ordered)
    title = text.strip().partition("\n")[0].lstrip("# ")
    return _PAGE.format(title=html.escape(title), links=links, body=body)


async def _answer(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})
