"""Queries: PALAVRA's texts of every official caption, other protocols, and captions of any kind."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.benchmarks.benchmark import QUERY_CAPTIONS
from pervl_assets.evaluation.protocols import PALAVRA, PROTOCOLS, Protocol, QuerySet, choose_protocols
from pervl_assets.evaluation.queries import (
    QUERIES,
    check_placeholders,
    check_targets,
    list_queries,
    mark_faults,
)
from pervl_assets_tests.evaluation.kit import hash_lines, list_official_queries
from pervl_assets_tests.goldens import read_golden

NAMES = {"df": "deep_fashion", "ytvos": "ytvos", "val": "validation"}
FORMS = {
    (True, False): "token",  # is_token_as_suffix, text only
    (True, True): "text_twice",
    (False, False): "token_alone",
    (False, True): "text",
}


def ask(captions: list[tuple], placeholder="person", classes=None, protocols=None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return marked captions and their queries; a caption is its set, row, concept, text and image."""
    frame = pl.DataFrame(captions, schema=QUERY_CAPTIONS.to_polars(), orient="row")
    marked = mark_faults(frame, {"7": "sling dress", "8": "skirt"} if classes is None else classes, placeholder)
    queries = list_queries(marked, placeholder, choose_protocols(placeholder) if protocols is None else protocols)
    return marked, QUERIES.validate(queries, "queries")


def test_the_texts_are_those_of_palavra_in_every_variant(shared):
    cases = read_golden("queries")["cases"]
    assert len(cases) == 48
    for case in cases:
        split = NAMES.get(case["split"], case["split"])
        queries = list_official_queries(shared, NAMES[case["benchmark"]], split)
        rich = "rich_detailed" if case["captions"] == "detailed" else "rich"
        mine = queries.filter(
            protocol="palavra",
            query_set="concept_only" if case["concept_only"] else rich,
            form=FORMS[case["is_token_as_suffix"], case["text_only"]],
        )
        assert mine["query"].to_list() == list(range(case["n"])), case
        assert hash_lines(mine["text"]) == case["sha256"], (case, mine["text"].head(2).to_list())


def test_each_official_image_is_the_target_of_one_caption(shared):
    for name, split, images in (("ytvos", "test", 252), ("deep_fashion", "validation", 229)):
        queries = list_official_queries(shared, name, split)
        rich = queries.filter(protocol="palavra", query_set="rich", form="token")
        assert rich["targets"].list.len().unique().to_list() == [1]
        assert rich["targets"].explode().n_unique() == images
        assert queries["query_id"].is_unique().all()


def test_polar_asks_once_for_each_official_concept(shared):
    asked = list_official_queries(shared, "deep_fashion", "test").filter(protocol="polar", query_set="concept")
    asked = asked.filter(form="token")
    assert asked.height == asked["concept"].n_unique() == 50
    assert asked["targets"].list.len().sum() == 221
    assert asked["text"][0] == "An image of * sling dress"
    assert list_official_queries(shared, "ytvos", "test")["protocol"].unique().to_list() == ["palavra"]


def test_a_class_of_palavra_ends_at_its_first_underscore():
    _, queries = ask([("short", 0, "panda_1", "a * eats.", "p.jpg")], "*", {"panda_1": "giant_panda"})
    assert queries["class_name"].unique().to_list() == ["giant"]
    whole = Protocol("whole", "none", (QuerySet("rich", {"text": "{class}"}),), PALAVRA.draws)
    _, queries = ask([("short", 0, "panda_1", "a * eats.", "p.jpg")], "*", {"panda_1": "giant_panda"}, (whole,))
    assert queries["text"].to_list() == ["a giant panda eats."]


def test_protocols_replace_the_placeholder_as_their_code_does():
    _, queries = ask(
        [
            ("short", 0, "7", "a personal person", "a.jpg"),
            ("detailed", 0, "7", "a person by a person", "a.jpg"),
            ("short", 1, "7", "the person", "b.jpg"),
            ("detailed", 1, "7", "the person", "b.jpg"),
        ]
    )
    texts = dict(queries.filter(query=0).select("query_id", "text").iter_rows())
    assert texts["palavra/rich/token/0"] == "a  sling dress * al  sling dress * "
    assert texts["palavra/rich/text/0"] == "a  sling dress al  sling dress "
    assert texts["polar/rich/token/0"] == "a person wearing * sling dressal person wearing * sling dress"
    assert texts["concon_chi/rich_detailed/token/0"] == "a  *  by a person"
    assert texts["concon_chi/rich_detailed/text/0"] == "a  sling dress  by a person"
    assert texts["polar/concept/text/0"] == "An image of sling dress"
    assert queries.filter(query_set="concept")["targets"].to_list() == [["a.jpg", "b.jpg"]] * 2


def test_captions_that_cannot_be_queries_are_counted_and_left_out():
    captions = [
        ("short", 0, "7", "the person", "a.jpg"),
        ("short", 1, "7", "nobody", "b.jpg"),
        ("short", 2, "8", None, "c.jpg"),
        ("short", 3, "9", "a person", "d.jpg"),
        ("short", 4, "10", "a person", "e.jpg"),
        ("short", 5, "8", "a * person, person", "f.jpg"),
        ("short", 6, "8", "a * person", "g.jpg"),
    ]
    marked, queries = ask(captions, classes={"7": "vest", "8": "skirt", "10": "star*"}, protocols=(PALAVRA,))
    assert marked["fault"].to_list() == [
        None,
        "no placeholder",
        "no text",
        "no class",
        "* in its class",
        "several placeholders",
        "a * of its own",
    ]
    rich = queries.filter(query_set="rich", form="text")
    assert rich["query"].to_list() == [0, 5, 6]
    assert rich["text"].to_list()[2] == "a skirt  skirt "
    assert queries.filter(query_set="concept_only", form="text")["query"].to_list() == [0, 1, 2, 5, 6]
    found = check_placeholders(marked)
    assert not found.passed
    assert "of 7 captions: * in its class in 1, " in found.text
    assert found.text.endswith("Of these 4 cannot be asked, so left out")
    assert found.rows["query"].to_list() == [1, 2, 3, 4, 5, 6]


def test_a_split_without_captions_has_no_queries():
    marked, queries = ask([], classes={})
    assert queries.is_empty()
    assert check_placeholders(marked).passed


def test_right_images_that_are_not_in_the_tree_are_named():
    _, queries = ask([("short", 0, "7", "the person", "a.jpg"), ("short", 1, "8", "a person", "b.jpg")])
    assert check_targets(queries, {"a.jpg", "b.jpg", "c.jpg"}).passed
    found = check_targets(queries, {"b.jpg"})
    assert found.text == "1 of 2 right images not in the tree: a.jpg"


@settings(deadline=None)
@given(
    placeholder=st.sampled_from(["*", "person", "mug"]),
    captions=st.lists(st.tuples(st.sampled_from("78"), st.none() | st.text("*person mug.{}$\\", max_size=30))),
    classes=st.dictionaries(st.sampled_from("78"), st.text("*_ a{class}$1\\")),
)
def test_only_forms_with_a_token_have_its_place(placeholder, captions, classes):
    """Whatever captions and classes hold, a text can be encoded as its form says, and its id is unique."""
    rows = [("short", row, concept, text, f"{row}.jpg") for row, (concept, text) in enumerate(captions)]
    _, queries = ask(rows, placeholder, classes, PROTOCOLS)
    has_token = queries["form"].str.starts_with("token")
    assert (queries["text"].str.contains("*", literal=True) == has_token).all()
    assert queries["query_id"].is_unique().all()
    assert set(queries["targets"].explode().drop_nulls()) <= {row[-1] for row in rows}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_forms_are_named_by_their_templates(protocol):
    for queries in protocol.query_sets:
        assert all(("*" in template) == form.startswith("token") for form, template in queries.forms.items())
