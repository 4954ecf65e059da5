"""The official annotations as queries and plans, through the project's own readers, and PALAVRA's figures of them."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.evaluation.protocols import choose_protocols
from pervl_assets.evaluation.queries import list_queries, mark_faults

SEARCHED = {benchmark.name: (benchmark, retrieval, tree) for benchmark, retrieval, tree in find_searched()}


@cache
def read_tables(shared: Path, name: str) -> dict[str, pl.DataFrame]:
    """Return the tables of a benchmark's official annotations."""
    return {table.name: table.read(shared / "data/annotations" / name) for table in SEARCHED[name][0].tables}


@cache
def list_official_queries(shared: Path, name: str, split: str) -> pl.DataFrame:
    """Return the queries of the official annotations."""
    _, retrieval, tree = SEARCHED[name]
    tables = read_tables(shared, name)
    marked = mark_faults(retrieval.list_captions(tables, split), tree.name_classes(tables), retrieval.placeholder)
    return list_queries(marked, retrieval.placeholder, choose_protocols(retrieval.placeholder))


def list_outputs(shared: Path, name: str, split: str) -> pl.DataFrame:
    """Return the ledger of a whole tree of the official annotations, with the columns that draws need."""
    _, _, tree = SEARCHED[name]
    outputs = [output for task in tree.plan(read_tables(shared, name), split).tasks for output in task.outputs]
    return pl.DataFrame({"path": [o.path for o in outputs], "concept": [o.concept for o in outputs]}).with_columns(
        status=pl.lit("written")
    )


def hash_lines(lines: Iterable[str]) -> str:
    """Return the sha256 of lines joined by newlines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
