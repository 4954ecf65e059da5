"""Published numbers on PerVL, to be shown beside one's own. Facts only; how they were measured is in the protocols."""

import io
from typing import Final

import polars as pl

from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import Column, TableSchema

PUBLISHED: Final = TableSchema(
    (
        Column("benchmark", pl.String, "ytvos or deep_fashion"),
        Column("split", pl.String, "validation or test"),
        Column("protocol", pl.String, "protocol of the queries, draws and scores"),
        Column("query_set", pl.String, "set of queries of the protocol"),
        Column("method", pl.String, "name of the method"),
        Column("encoder", pl.String, "CLIP model, null where none is used"),
        Column("shots", pl.Int32, "few-shot images of a concept"),
        Column("mrr", pl.Float64, "mean reciprocal rank, as a fraction"),
        Column("error", pl.Float64, "its standard error over 5 repetitions, null if not given"),
        Column("recall_5", pl.Float64, "recall at 5, as a fraction, null if not given"),
        Column("recall_10", pl.Float64, "recall at 10, as a fraction, null if not given"),
        Column("mean_average_precision", pl.Float64, "as a fraction, null if not given"),
        Column("source", pl.String, "paper and table, and whether it is known only from notes of the paper"),
    )
)

_PERCENT: Final = ("mrr", "error", "recall_5", "recall_10", "mean_average_precision")
_SOURCES: Final = {
    "1": "arXiv 2204.01694, table 1",
    "2": "arXiv 2204.01694, table 2",
    "1+2": "arXiv 2204.01694, tables 1 and 2",
    "A1": "arXiv 2204.01694, table A.1",
    "polar": "arXiv 2506.10182, as copied in notes of it",
}

_ROWS: Final = """\
benchmark,split,protocol,query_set,method,encoder,shots,mrr,error,recall_5,recall_10,mean_average_precision,table
deep_fashion,test,palavra,concept_only,Random,,0,2.9,0.4,,,,1
deep_fashion,test,palavra,concept_only,Text only,ViT-B/32,0,4.2,0.0,,,,1
deep_fashion,test,palavra,concept_only,Adapter,ViT-B/32,5,13.4,0.5,,,,1
deep_fashion,test,palavra,concept_only,COLLIE,ViT-B/32,5,13.8,0.5,,,,1
deep_fashion,test,palavra,concept_only,AvgIm,ViT-B/32,5,13.8,0.5,,,,1
deep_fashion,test,palavra,concept_only,PALAVRA,ViT-B/32,5,19.4,0.6,,,,1
deep_fashion,test,palavra,rich,Random,,0,2.9,0.4,,,,1
deep_fashion,test,palavra,rich,Adapter,ViT-B/32,5,5.9,0.7,,,,1
deep_fashion,test,palavra,rich,COLLIE,ViT-B/32,5,7.9,0.7,,,,1
deep_fashion,test,palavra,rich,COLLIE: Text,ViT-B/32,5,8.0,1.0,,,,1
deep_fashion,test,palavra,rich,Text only,ViT-B/32,0,17.6,0.0,,,,1
deep_fashion,test,palavra,rich,AvgIm+Text,ViT-B/32,5,18.8,0.4,,,,1
deep_fashion,test,palavra,rich,Without tuning,ViT-B/32,5,22.1,0.2,29.6,,,1+2
deep_fashion,test,palavra,rich,"Without tuning, no text augmentation",ViT-B/32,5,19.1,0.2,25.7,,,2
deep_fashion,test,palavra,rich,"Without tuning, only ground-truth loss",ViT-B/32,5,19.2,0.5,25.1,,,2
deep_fashion,test,palavra,rich,"Without tuning, only cycle loss",ViT-B/32,5,16.1,0.4,21.6,,,2
deep_fashion,test,palavra,rich,Only tuning,ViT-B/32,5,27.5,1.0,37.9,,,2
deep_fashion,test,palavra,rich,"PALAVRA, no alignment",ViT-B/32,5,26.3,0.2,36.9,,,2
deep_fashion,test,palavra,rich,PALAVRA,ViT-B/32,5,28.4,0.7,39.2,,,1+2
deep_fashion,test,palavra,rich_detailed,Text only,ViT-B/32,0,24.3,0.0,31.7,43.4,,A1
deep_fashion,test,palavra,rich_detailed,AvgIm+Text,ViT-B/32,5,20.9,0.6,29.0,38.4,,A1
deep_fashion,test,palavra,rich_detailed,Without tuning,ViT-B/32,5,27.8,0.3,36.4,48.4,,A1
deep_fashion,test,palavra,rich_detailed,PALAVRA,ViT-B/32,5,33.8,0.5,47.5,61.9,,A1
deep_fashion,validation,palavra,rich,Without tuning,ViT-B/32,5,26.9,0.2,35.9,,,2
deep_fashion,validation,palavra,rich,"Without tuning, no text augmentation",ViT-B/32,5,21.8,1.9,29.2,,,2
deep_fashion,validation,palavra,rich,"Without tuning, only ground-truth loss",ViT-B/32,5,23.3,0.4,31.9,,,2
deep_fashion,validation,palavra,rich,"Without tuning, only cycle loss",ViT-B/32,5,19.3,0.5,26.8,,,2
deep_fashion,validation,palavra,rich,Only tuning,ViT-B/32,5,32.1,0.6,44.1,,,2
deep_fashion,validation,palavra,rich,"PALAVRA, no alignment",ViT-B/32,5,32.9,0.4,47.8,,,2
deep_fashion,validation,palavra,rich,PALAVRA,ViT-B/32,5,36.2,1.3,53.7,,,2
ytvos,test,palavra,concept_only,Random,,0,2.8,0.2,,,,1
ytvos,test,palavra,concept_only,Text only,ViT-B/32,0,21.5,0.0,,,,1
ytvos,test,palavra,concept_only,Adapter,ViT-B/32,5,35.5,0.3,,,,1
ytvos,test,palavra,concept_only,COLLIE,ViT-B/32,5,35.6,0.3,,,,1
ytvos,test,palavra,concept_only,AvgIm,ViT-B/32,5,38.2,0.3,,,,1
ytvos,test,palavra,concept_only,PALAVRA,ViT-B/32,5,53.4,0.8,,,,1
ytvos,test,palavra,rich,Random,,0,2.8,0.2,,,,1
ytvos,test,palavra,rich,Adapter,ViT-B/32,5,5.3,0.3,,,,1
ytvos,test,palavra,rich,COLLIE,ViT-B/32,5,6.2,0.3,,,,1
ytvos,test,palavra,rich,COLLIE: Text,ViT-B/32,5,7.2,0.3,,,,1
ytvos,test,palavra,rich,Text only,ViT-B/32,0,37.6,0.0,,,,1
ytvos,test,palavra,rich,AvgIm+Text,ViT-B/32,5,47.2,0.3,,,,1
ytvos,test,palavra,rich,Without tuning,ViT-B/32,5,47.1,0.8,70.3,,,1+2
ytvos,test,palavra,rich,"Without tuning, no text augmentation",ViT-B/32,5,44.4,0.3,65.6,,,2
ytvos,test,palavra,rich,"Without tuning, only ground-truth loss",ViT-B/32,5,41.4,0.2,62.0,,,2
ytvos,test,palavra,rich,"Without tuning, only cycle loss",ViT-B/32,5,37.3,1.1,55.8,,,2
ytvos,test,palavra,rich,Only tuning,ViT-B/32,5,57.8,0.3,77.1,,,2
ytvos,test,palavra,rich,"PALAVRA, no alignment",ViT-B/32,5,58.1,0.3,75.2,,,2
ytvos,test,palavra,rich,PALAVRA,ViT-B/32,5,61.2,0.4,78.7,,,1+2
ytvos,validation,palavra,rich,Without tuning,ViT-B/32,5,47.3,0.5,68.5,,,2
ytvos,validation,palavra,rich,"Without tuning, no text augmentation",ViT-B/32,5,45.0,0.3,63.8,,,2
ytvos,validation,palavra,rich,"Without tuning, only ground-truth loss",ViT-B/32,5,40.8,0.8,59.3,,,2
ytvos,validation,palavra,rich,"Without tuning, only cycle loss",ViT-B/32,5,35.5,1.1,50.8,,,2
ytvos,validation,palavra,rich,Only tuning,ViT-B/32,5,57.3,0.9,76.1,,,2
ytvos,validation,palavra,rich,"PALAVRA, no alignment",ViT-B/32,5,56.5,0.7,74.1,,,2
ytvos,validation,palavra,rich,PALAVRA,ViT-B/32,5,59.0,0.8,76.2,,,2
deep_fashion,test,polar,rich,SEARLE,ViT-B/32,5,21.90,,27.15,,,polar
deep_fashion,test,polar,rich,POLAR,ViT-B/32,5,34.82,,44.88,,,polar
deep_fashion,test,polar,rich,SEARLE,ViT-L/14,5,27.62,,34.12,,,polar
deep_fashion,test,polar,rich,POLAR,ViT-L/14,5,40.72,,51.31,,,polar
deep_fashion,test,polar,concept,SEARLE,ViT-B/32,5,25.97,,,,12.74,polar
deep_fashion,test,polar,concept,POLAR,ViT-B/32,5,59.26,,,,28.75,polar
deep_fashion,test,polar,concept,SEARLE,ViT-L/14,5,32.07,,,,16.17,polar
deep_fashion,test,polar,concept,POLAR,ViT-L/14,5,65.96,,,,35.07,polar
"""
"""In percent, as in the papers. `table` is a key of `_SOURCES`."""


def hash_published() -> str:
    """Return a sha256 of the published numbers and their sources.

    It uses no polars: the code location calls it while it loads, and a process that was forked from one in which polars
    has started its threads waits for them for ever.
    """
    return hash_bytes(repr((_ROWS, _SOURCES)).encode())


def read_published() -> pl.DataFrame:
    """Return the published numbers (schema `PUBLISHED`), as fractions."""
    types = {name: dtype for name, dtype in PUBLISHED.to_polars().items() if name != "source"}
    rows = pl.read_csv(io.StringIO(_ROWS), schema_overrides={**types, "table": pl.String})
    fractions = [(pl.col(name) / 100).round(4) for name in _PERCENT]
    return rows.with_columns(*fractions, source=pl.col("table").replace_strict(_SOURCES)).select(PUBLISHED.names)
