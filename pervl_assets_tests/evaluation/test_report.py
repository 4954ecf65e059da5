"""The report: one file that shows scores, curves and queries, and in which a name is text only."""

import base64
import io
from html.parser import HTMLParser

import polars as pl
import pytest
from PIL import Image

from pervl_assets.evaluation.examples import choose_examples
from pervl_assets.evaluation.report import Shown, build_report
from pervl_assets_tests.evaluation.pictured import make_draws, make_queries, make_ranks, make_results, make_tree

CURVES = {"set encoder, repetition 1": pl.DataFrame({"epoch": [1, 2], "cycle": [2.0, 1.0], "test": [None, 1.5]})}

NO_TUNING = pl.DataFrame()
TUNING = pl.DataFrame({"split": ["mugs, test"], "method": ["PALAVRA"], "before the first step": [2.34567]})


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html.decode())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def shown(tmp_path) -> Shown:
    ranks = pl.concat([make_ranks("Text only", (1, 1, 2), None), make_ranks()])
    tree = make_tree(tmp_path)
    return Shown("mugs", "test", "PerVL-Mugs", tree, choose_examples(ranks, make_queries(), make_draws()))


def test_scores_are_percent_with_interval_and_the_published_number(shown):
    page = Page(build_report(make_results(), [shown], CURVES, TUNING, {"encoder": "tiny"}))
    assert "PALAVRA, 2 seeds" in page.text
    assert "77.8 ± 1.1[50.0, 100.0]" in page.text
    assert "+11.1[-10.0, +30.0]" in page.text
    assert "28.4 ± 0.7" in page.text
    assert "PALAVRA: not comparable with a paper: synthetic data." in page.text
    assert "PALAVRA: 2 queries with ties" in page.text
    assert len(page.find("tr")) == 2 + 2
    assert "mugs, testPALAVRA2.346" in page.text


def test_names_are_text_and_nothing_can_run_or_be_loaded(shown):
    rows = make_results(why="<img src=x onerror=alert(1)>")
    page = Page(build_report(rows, [shown], CURVES, NO_TUNING, {"<script>": '"><script>'}))
    assert not page.find("script")
    assert not page.find("b")
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.find("img"))
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name == "style"}
    parts = [f"#{section['id']}" for section in page.find("section")]
    assert [link["href"] for link in page.find("a")] == parts == ["#part-1", "#part-2"]
    assert "the mug * & a <b>cake</b>" in page.text
    assert r"\x1b[2J" in page.text
    (policy,) = [meta["content"] for meta in page.find("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_the_images_asked_for_and_found_are_shown(shown):
    page = Page(build_report(make_results(), [shown], {}, NO_TUNING, {}))
    assert page.text.count("found instead") == 1
    assert page.text.count("asked for, found") == 2
    assert page.text.count("few-shot") == 2 + 6  # two headings name the few-shot seed
    colours = []
    for image in page.find("img"):
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as opened:
            assert opened.size == (40, 30)
            colours.append(max(range(3), key=opened.getpixel((20, 15)).__getitem__))
    assert len(colours) == 3 + 1 + 6


def test_only_files_of_the_ledger_are_read(shown, tmp_path):
    (tmp_path / "secret.jpg").write_bytes((tmp_path / "eval/test/anna_red.jpg").read_bytes())
    ranks = make_ranks().with_columns(found=pl.lit("../../secret.jpg"), target=pl.lit("gone.jpg"))
    examples = choose_examples(ranks, make_queries(), make_draws())
    page = Page(build_report(make_results(), [Shown("mugs", "test", "", shown.tree, examples)], {}, NO_TUNING, {}))
    assert page.text.count("not on disk") == 6
    assert len(page.find("img")) == 6


def test_a_report_of_baselines_has_no_curves_and_no_empty_numbers():
    rows = make_results(seeds=1, mrr_sem=None, mrr_low=None, mrr_high=None, published_mrr=None, comparable=False)
    rows = rows.with_columns(why=pl.lit("no number is published"), source=pl.lit(None, pl.String))
    page = Page(build_report(rows, [], {}, NO_TUNING, {}))
    assert "Losses" not in page.text
    assert "PALAVRA: no number is published." in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def test_published_numbers_of_other_methods_are_below_the_table():
    page = Page(build_report(make_results(benchmark="ytvos"), [], {}, NO_TUNING, {}))
    assert "Published, and not measured here:" in page.text
    assert "COLLIE: TextViT-B/3257.2± 0.3arXiv 2204.01694, table 1" in page.text
    assert "61.2" not in page.text  # PALAVRA has a row
