"""The evaluation as one HTML file: scores, curves, and the best and worst queries with their images.

It needs no other file, runs no script, and loads nothing. Names and captions are untrusted: text and attributes become
HTML only in `ElementTree`, which escapes them.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

import polars as pl

from pervl_assets.core.plots import draw_curves
from pervl_assets.core.text import count_of, escape_terminal
from pervl_assets.evaluation.examples import Example, Examples
from pervl_assets.evaluation.pictures import list_images, read_image
from pervl_assets.evaluation.published import read_published
from pervl_assets.evaluation.results import list_unmeasured, show_published
from pervl_assets.trees.ledger import FolderTree

_SIDE: Final = 192
"""Largest side of an image, in pixels."""

_QUALITY: Final = 80
_BAR: Final = 130
"""Width of the bar of an interval, in pixels."""

_METRICS: Final = ("recall_1", "recall_5", "recall_10", "mean_average_precision", "mrr_by_concept")
_COLUMNS: Final = (
    *("method", "MRR", "95 %", "0 to 100 %", "published", "over text only", "95 %"),
    *("R@1", "R@5", "R@10", "mAP", "by concept"),
)

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #666a73; --card: #8881; --bar: #3b82f6 }
@media (prefers-color-scheme: dark) { :root { --dim: #a2a2ac } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .3rem }
p { margin: .3rem 0; max-width: 60rem }
.dim, figcaption, dt { color: var(--dim) }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem }
a { color: inherit }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .8rem 0; font-size: .9rem }
dd { margin: 0; overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .4rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { font-weight: 600; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; padding-left: 0 }
.note { font-size: .9rem; max-width: none }
td svg { display: block; width: 6.5rem; height: auto; color: var(--dim) }
.bar { fill: var(--bar); stroke: none }
.query { background: var(--card); border-radius: .5rem; padding: .8rem; margin: .8rem 0; break-inside: avoid }
.query p { margin: 0; max-width: none }
.query .images { margin-top: .5rem }
.images { display: flex; flex-wrap: wrap; gap: .6rem }
figure { margin: 0; width: 8rem; font-size: .8rem }
figure.answer { width: 11rem }
figcaption { margin-top: .2rem; overflow-wrap: anywhere }
img, .nothing { display: block; width: 100%; height: auto; border-radius: .3rem }
.nothing { border: 1px dashed var(--line); padding: 2rem .5rem; color: var(--dim) }
.curves { display: flex; flex-wrap: wrap; gap: 1rem }
.curves figure { width: 30rem; max-width: 100%; break-inside: avoid }
.curves svg { max-width: 100%; height: auto }
@page { margin: 12mm }
@media print { html { font-size: 10px } body { max-width: none; padding: 0 } .wide { overflow: visible } }
@media screen and (max-width: 40rem) { figure { width: 6.5rem } figure.answer { width: 46% } }
"""


@dataclass(frozen=True)
class Shown:
    """A split of a benchmark of which queries are shown.

    Attributes:
        benchmark: Name of the benchmark.
        split: Name of the split.
        title: Name of the benchmark in the paper.
        tree: The tree of its images.
        examples: Its best and worst queries.
    """

    benchmark: str
    split: str
    title: str
    tree: FolderTree
    examples: Examples


def build_report(
    results: pl.DataFrame,
    shown: Sequence[Shown],
    curves: Mapping[str, pl.DataFrame],
    tuning: pl.DataFrame,
    facts: Mapping[str, str],
) -> bytes:
    """Return the report as HTML in UTF-8.

    Args:
        results: Scores with the published ones beside them (schema `RESULTS`).
        shown: Queries to show, by split.
        curves: Losses by heading; the first column is the step, each other one a curve.
        tuning: Losses of the tuning of tokens, as it is shown.
        facts: Further facts about the evaluation, e.g. its encoder.
    """
    page = Element("html", {"lang": "en"})
    head, body = SubElement(page, "head"), SubElement(page, "body")
    _fill_head(head)
    _add(body, "h1", "PerVL: retrieval evaluation")
    _add(body, "p", "A query asks for an image of a personal object among all evaluation images of its split.", "dim")
    _add_facts(body, facts)
    contents, titles = SubElement(body, "nav"), {(one.benchmark, one.split): one for one in shown}
    for (benchmark, split), scores in results.group_by("benchmark", "split", maintain_order=True):
        one = titles.get((str(benchmark), str(split)))
        section = _add_section(body, contents, f"{one.title if one else benchmark}, {split}")
        for (protocol, query_set), rows in scores.group_by("protocol", "query_set", maintain_order=True):
            _add_scores(section, str(protocol), str(query_set), rows)
            _add_published(section, rows)
        if one:
            _add_examples(section, one)
    if curves or tuning.height:
        section = _add_section(body, contents, "Losses")
        _add_curves(section, curves)
        _add_tuning(section, tuning)
    html: bytes = tostring(page, encoding="utf-8", method="html")
    return b"<!DOCTYPE html>\n" + html


def _fill_head(head: Element) -> None:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    SubElement(head, "meta", {"name": "referrer", "content": "no-referrer"})
    SubElement(head, "title").text = "PerVL: retrieval evaluation"
    SubElement(head, "style").text = _STYLE


def _add_section(body: Element, contents: Element, title: str) -> Element:
    """Add a section, and a link to it in the contents."""
    name = f"part-{len(contents) + 1}"
    section = SubElement(body, "section", {"id": name})
    _add(contents, "a", title).set("href", f"#{name}")
    _add(section, "h2", title)
    return section


def _add_facts(parent: Element, facts: Mapping[str, str]) -> None:
    entries = SubElement(parent, "dl")
    for name, value in facts.items():
        _add(entries, "dt", name)
        _add(entries, "dd", value)


def _add_scores(parent: Element, protocol: str, query_set: str, rows: pl.DataFrame) -> None:
    """Add the table of one protocol and query set, and below it what the numbers can be compared with."""
    first = rows.row(0, named=True)
    _add(parent, "h3", f"Protocol {protocol}: {query_set.replace('_', ' ')} queries")
    counts = f"{first['queries']:,} queries of {first['concepts']:,} concepts among {first['gallery']:,} images."
    _add(parent, "p", f"{counts} In percent, ± the standard error over seeds; intervals are over concepts.", "dim")
    body = _add_table(parent, _COLUMNS)
    for row in rows.iter_rows(named=True):
        line = SubElement(body, "tr")
        _add(line, "td", f"{row['method']}, {row['seeds']} seeds" if row["seeds"] > 1 else row["method"])
        _add(line, "td", _show(row["mrr"], row["mrr_sem"]))
        _add(line, "td", _show_interval(row["mrr_low"], row["mrr_high"]))
        SubElement(line, "td").append(_draw_interval(row))
        _add(line, "td", _show(row["published_mrr"], row["published_error"]), "" if row["comparable"] else "dim")
        _add(line, "td", _show(row["difference"], sign="+"))
        _add(line, "td", _show_interval(row["difference_low"], row["difference_high"], sign="+"))
        for name in _METRICS:
            _add(line, "td", _show(row[name]))
    sources = pl.col("source").drop_nulls().unique()
    reasons = rows.group_by("comparable", "why", maintain_order=True).agg("method", sources)
    for comparable, why, methods, named in reasons.iter_rows():
        what = f"{'comparable' if comparable else 'not comparable'} with {'; '.join(sorted(named))}: " if named else ""
        _add(parent, "p", f"{', '.join(methods)}: {what}{why}.", "dim note")
    for method, tied in rows.filter(pl.col("tied") > 0).select("method", "tied").iter_rows():
        _add(
            parent,
            "p",
            f"{method}: {count_of(tied, 'query')} with ties, which count as ranked before them.",
            "dim note",
        )


def _add_published(parent: Element, rows: pl.DataFrame) -> None:
    """Add the published numbers of methods that one protocol and query set has no row of."""
    asked = rows.select("benchmark", "split", "protocol", "query_set").head(1)
    published = list_unmeasured(read_published().join(asked, asked.columns, "semi", maintain_order="left"), rows)
    if published.height:
        _add(parent, "p", "Published, and not measured here:", "dim note")
        _add_rows(parent, show_published(published).drop("benchmark", "split", "protocol", "queries of"))


def _add_rows(parent: Element, frame: pl.DataFrame) -> None:
    """Add a frame as a table; numbers with a fraction have three digits after the point, and null is empty."""
    body = _add_table(parent, frame.columns)
    for row in frame.iter_rows():
        line = SubElement(body, "tr")
        for cell in row:
            _add(line, "td", f"{cell:.3f}" if isinstance(cell, float) else "" if cell is None else str(cell))


def _add_table(parent: Element, columns: Iterable[str]) -> Element:
    """Add a table, and return its body."""
    table = SubElement(SubElement(parent, "div", {"class": "wide"}), "table")
    header = SubElement(SubElement(table, "thead"), "tr")
    for name in columns:
        _add(header, "th", name)
    return SubElement(table, "tbody")


def _draw_interval(row: Mapping[str, Any]) -> Element:
    """Draw an MRR with its interval between 0 and 1, and the published MRR as an upright line."""
    svg = Element("svg", {"viewBox": f"0 0 {_BAR} 14", "width": str(_BAR), "height": "14", "stroke": "currentColor"})
    SubElement(svg, "path", {"d": f"M0 7H{_BAR}", "stroke-opacity": "0.3"})
    if row["mrr_low"] is not None and row["mrr_high"] is not None:
        bar = {"x": f"{_BAR * row['mrr_low']:.1f}", "width": f"{_BAR * (row['mrr_high'] - row['mrr_low']):.1f}"}
        SubElement(svg, "rect", {**bar, "y": "4", "height": "6", "rx": "3", "class": "bar"})
    if row["published_mrr"] is not None:
        SubElement(svg, "path", {"d": f"M{_BAR * row['published_mrr']:.1f} 0v14", "stroke-width": "2"})
    SubElement(svg, "circle", {"cx": f"{_BAR * row['mrr']:.1f}", "cy": "7", "r": "3", "class": "bar"})
    return svg


def _show(share: float | None, error: float | None = None, *, sign: str = "") -> str:
    """Return a fraction in percent, with its standard error: `28.4 ± 0.7`; nothing where it is not known."""
    if share is None:
        return ""
    return f"{100 * share:{sign}.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def _show_interval(low: float | None, high: float | None, *, sign: str = "") -> str:
    return "" if low is None or high is None else f"[{_show(low, sign=sign)}, {_show(high, sign=sign)}]"


def _add_examples(parent: Element, shown: Shown) -> None:
    for heading, chosen in shown.examples.name_parts():
        _add(parent, "h3", heading)
        for example in chosen:
            _add_example(parent, shown.tree, example, shown.examples.gallery)


def _add_example(parent: Element, tree: FolderTree, example: Example, gallery: int) -> None:
    card = SubElement(parent, "div", {"class": "query"})
    _add(card, "p", example.text)
    _add(card, "p", f"{example.concept}: {example.describe_place(gallery)}", "dim")
    images = SubElement(card, "div", {"class": "images"})
    for label, path in list_images(example):
        figure = SubElement(images, "figure", {} if label.startswith("few-shot") else {"class": "answer"})
        if (image := read_image(tree, path, _SIDE)) is None:
            _add(figure, "div", "not on disk", "nothing")
        else:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
            data = base64.b64encode(buffer.getvalue()).decode()
            size = {"width": str(image.width), "height": str(image.height)}
            SubElement(figure, "img", {"src": f"data:image/jpeg;base64,{data}", "alt": escape_terminal(path), **size})
        _add(figure, "figcaption", label)


def _add_curves(parent: Element, curves: Mapping[str, pl.DataFrame]) -> None:
    figures = SubElement(parent, "div", {"class": "curves"})
    for heading, frame in curves.items():
        figure = SubElement(figures, "figure")
        step, *names = frame.columns
        losses = {name: frame[name].cast(pl.Float64).fill_null(float("nan")).to_list() for name in names}
        figure.append(draw_curves(losses, step))
        _add(figure, "figcaption", heading)


def _add_tuning(parent: Element, tuning: pl.DataFrame) -> None:
    if tuning.is_empty():
        return
    _add(parent, "h3", "Tuning of tokens: mean loss over concepts and seeds")
    _add_rows(parent, tuning)


def _add(parent: Element, tag: str, text: str, kind: str = "") -> Element:
    """Add an element with a text, and control characters shown, and return it."""
    element = SubElement(parent, tag, {"class": kind} if kind else {})
    element.text = escape_terminal(text)
    return element
