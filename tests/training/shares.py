"""Rows that count for more or less than others."""

from __future__ import annotations

from pathlib import Path


def weigh(path: Path, **columns: list[float]) -> None:
    """Add columns to a file of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.float64()))
    pq.write_table(table, path)
