"""Published numbers: each is once in the table, as a fraction, under a protocol that the project has."""

import polars as pl

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.evaluation.protocols import PROTOCOLS
from pervl_assets.evaluation.published import PUBLISHED, read_published


def test_each_number_is_a_fraction_and_occurs_once():
    frame = PUBLISHED.validate(read_published(), "published")
    assert frame.select("benchmark", "split", "protocol", "query_set", "method", "encoder").is_unique().all()
    for name in ("mrr", "error", "recall_5", "recall_10", "mean_average_precision"):
        assert frame[name].drop_nulls().is_between(0, 1).all(), name
    assert frame["mrr"].null_count() == frame["source"].null_count() == 0


def test_the_anchors_are_those_of_the_paper():
    text_only = read_published().filter(method="Text only", split="test").sort("benchmark", "query_set")
    assert text_only.select("benchmark", "query_set", "mrr").rows() == [
        ("deep_fashion", "concept_only", 0.042),
        ("deep_fashion", "rich", 0.176),
        ("deep_fashion", "rich_detailed", 0.243),
        ("ytvos", "concept_only", 0.215),
        ("ytvos", "rich", 0.376),
    ]


def test_each_number_is_of_a_protocol_and_a_benchmark_that_exist():
    frame = read_published()
    known = {(protocol.name, queries.name) for protocol in PROTOCOLS for queries in protocol.query_sets}
    assert set(frame.select("protocol", "query_set").iter_rows()) <= known
    splits = {(b.name, split) for b in find_benchmarks() for tree in b.trees for split in tree.splits}
    assert set(frame.select("benchmark", "split").iter_rows()) <= splits
    assert frame.filter(pl.col("shots") > 0)["encoder"].null_count() == 0
