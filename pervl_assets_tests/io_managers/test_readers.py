"""Tables and features, as other libraries read them: a line each in docs/assets/README.md."""

import re
from pathlib import Path

import polars as pl
import pytest

PAGE = Path(__file__).parents[2] / "docs/assets/README.md"


@pytest.fixture
def tables(made_world) -> dict[Path, pl.DataFrame]:
    """Every Parquet file of the made world."""
    tables = {file: pl.read_parquet(file) for file in sorted((made_world.data / "assets").rglob("*.parquet"))}
    types = {dtype.base_type() for table in tables.values() for dtype in table.dtypes}
    assert types >= {pl.String, pl.Boolean, pl.UInt32, pl.UInt64, pl.List, pl.Array}
    return tables


def test_pandas_reads_every_table(tables):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="pandas reads Parquet with pyarrow, which is not installed")
    for file, table in tables.items():
        found = pandas.read_parquet(file)
        assert (found.shape, list(found.columns)) == (table.shape, table.columns), file
        for name in (name for name, dtype in table.schema.items() if not dtype.is_nested()):
            assert found[name].count() == table[name].count(), (file, name)  # without nulls


def test_duckdb_reads_every_table(tables):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    for file, table in tables.items():
        rows = duckdb.read_parquet(str(file)).fetchall()
        expected = [tuple(row) for row in table.rows()]
        assert [tuple(list(v) if isinstance(v, tuple) else v for v in row) for row in rows] == expected, file


def test_the_lines_of_the_page_read_tables_and_shards(made_world):
    for library in ("pandas", "pyarrow", "duckdb"):
        pytest.importorskip(library)
    (block,) = re.findall(r"```python\n(import duckdb.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines():
        if line.startswith("duckdb.sql"):
            block = block.replace(line, f"assert {line}.fetchall()")
    exec(block, {"PERVL_DATA": made_world.data})  # noqa: S102 - the page's own code
