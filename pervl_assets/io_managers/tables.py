"""Tables: polars frames in Parquet, with exactly the columns that their asset declares."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.core.errors import SchemaError
from pervl_assets.core.tables import TableSchema, hash_frame, read_hashed, validate_columns, write_hashed
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import ROWS, describe_size, preview_table
from pervl_assets.release.images import Labeller
from pervl_assets.release.parts import Part, TablePart

COLUMN_SCHEMA: Final = "dagster/column_schema"
COLUMN_LINEAGE: Final = "dagster/column_lineage"


def declare_columns(schema: TableSchema, group: str = "") -> dict[str, dg.TableSchema | dg.TableColumnLineage]:
    """Return the asset metadata that declares a table's columns, to Dagster's UI and to `TableIOManager`.

    Args:
        schema: The columns, and which columns they are made from.
        group: Key prefix of the tables that `made_from` names, with `/` between its parts.
    """
    columns = [dg.TableColumn(c.name, str(c.dtype), description=c.description) for c in schema]
    lineage = {c.name: [_find_column(group, source) for source in c.made_from] for c in schema if c.made_from}
    return {
        COLUMN_SCHEMA: dg.TableSchema(columns=columns),
        **({COLUMN_LINEAGE: dg.TableColumnLineage(lineage)} if lineage else {}),
    }


def _find_column(group: str, source: str) -> dg.TableColumnDep:
    table, _, column = source.partition(".")
    return dg.TableColumnDep(dg.AssetKey(f"{group}/{table}".split("/")), column)


class TableIOManager(PervlIOManager):
    """Keeps a `polars.DataFrame`; refuses one that breaks its declared schema."""

    key = "tables"
    kind = "table"
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
                f"The table {table} declares no columns.", advice="Give its asset metadata=declare_columns(schema)."
            )
        schema: dg.TableSchema = getattr(declared, "schema", declared)  # Dagster may have wrapped it
        validate_columns(value, {column.name: column.type for column in schema.columns}, table)
        write_hashed(value, path)
        context.add_output_metadata(describe_size(path.stat().st_size))

    def load(self, path: Path) -> pl.DataFrame:
        """Read the frame. Raises as `read_hashed` does."""
        return read_hashed(path)[0]

    @staticmethod
    def describe(
        frame: pl.DataFrame,
        *,
        asset_key: dg.AssetKey | None = None,
        checks: Sequence[dg.AssetCheckResult] = (),
        **more: Any,
    ) -> dg.MaterializeResult[pl.DataFrame]:
        """Materialize a table: row count and first rows as metadata, the content's hash as data version.

        Writing it completes its size.
        """
        return dg.MaterializeResult(
            asset_key=asset_key,
            value=frame,
            data_version=dg.DataVersion(hash_frame(frame)[:16]),
            metadata={**more, "preview": preview_table(frame), ROWS: frame.height, **describe_size(0)},
            check_results=checks,
        )

    def publish(
        self, part: Part, paths: Mapping[str | None, Path], columns: Mapping[str, str], label: Labeller
    ) -> TablePart:
        """Return the table as a part of the release."""
        files = tuple(map(self.store.name, paths.values()))
        return TablePart(part.name, part.description, part.sources, files, columns)
