"""Parquet tables through pyarrow, which is an extra."""

from pathlib import Path
from typing import Any

from mer_featurestore.errors import BadInput


def need_pyarrow() -> Any:
    """Return the pyarrow.parquet module.

    Raises:
        BadInput: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise BadInput("Parquet needs pyarrow", "pip install 'mer-fs[pandas]'") from None
    return pyarrow.parquet


def open_parquet(path: Path) -> Any:
    """Open a Parquet file; BadInput when it is not there or not Parquet."""
    parquet = need_pyarrow()
    import pyarrow as pa

    try:
        return parquet.ParquetFile(path)
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}", "check the path") from None
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a Parquet file: {error}", "check the path") from None


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Return a flat table, column -> values; BadInput for columns that are lists or structures."""
    import pyarrow.types

    table = open_parquet(path).read()
    nested = [f.name for f in table.schema if pyarrow.types.is_nested(f.type)]
    if nested:
        raise BadInput(
            f"{path}: column {nested[0]!r} is not flat", "write one column per number, e.g. p_<class>"
        )
    return {name: table.column(name).to_pylist() for name in table.column_names}
