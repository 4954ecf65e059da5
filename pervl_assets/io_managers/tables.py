"""Tables: polars frames in Parquet, held against their declared columns before anything is written.

Belongs here: the check, the file format, and how columns are declared to Dagster: as the asset's metadata
`dagster/column_schema` and, where they are made from columns of other tables, `dagster/column_lineage`.
"""

from pathlib import Path
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.core.errors import SchemaError
from pervl_assets.core.tables import CONTENT_SHA256, TableSchema, hash_frame, validate_columns, write_parquet
from pervl_assets.io_managers.base import PervlIOManager

COLUMN_SCHEMA: Final = "dagster/column_schema"
COLUMN_LINEAGE: Final = "dagster/column_lineage"


def declare_columns(schema: TableSchema, group: str = "") -> dict[str, dg.TableSchema | dg.TableColumnLineage]:
    """Return the asset metadata that declares a table's columns, to Dagster's UI and to `TableIOManager`.

    Args:
        schema: The columns, and which columns they are made from.
        group: Key prefix of the tables that `made_from` names.
    """
    columns = [dg.TableColumn(c.name, str(c.dtype), description=c.description) for c in schema]
    lineage = {c.name: [_find_column(group, source) for source in c.made_from] for c in schema if c.made_from}
    return {
        COLUMN_SCHEMA: dg.TableSchema(columns=columns),
        **({COLUMN_LINEAGE: dg.TableColumnLineage(lineage)} if lineage else {}),
    }


def _find_column(group: str, source: str) -> dg.TableColumnDep:
    table, _, column = source.partition(".")
    return dg.TableColumnDep(dg.AssetKey([group, table]), column)


class TableIOManager(PervlIOManager):
    """Reads and writes `polars.DataFrame` as Parquet; refuses a frame that breaks its declared schema."""

    extension = ".parquet"

    def write(self, context: dg.OutputContext, value: pl.DataFrame, path: Path) -> None:
        """Write the frame whole or not at all; an unchanged frame rewrites nothing.

        Raises:
            SchemaError: A column is missing, unexpected, misplaced or of another type; nothing is written.
        """
        table = context.asset_key.to_user_string()
        declared: Any = context.definition_metadata.get(COLUMN_SCHEMA)
        if declared is None:
            raise SchemaError(
                f"The table {table} declares no columns.",
                advice="Give its asset metadata=declare_columns(schema).",
            )
        schema: dg.TableSchema = getattr(declared, "schema", declared)  # Dagster may have wrapped it
        validate_columns(value, {column.name: column.type for column in schema.columns}, table)
        write_parquet(value, path, {CONTENT_SHA256: hash_frame(value)})
        context.add_output_metadata({"bytes": path.stat().st_size})

    def read(self, context: dg.InputContext, path: Path) -> pl.DataFrame:
        """Read the frame."""
        return pl.read_parquet(path)
