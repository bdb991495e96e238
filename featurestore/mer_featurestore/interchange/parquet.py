"""Parquet tables through pyarrow, which is an extra."""

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_featurestore.content import file_hash
from mer_featurestore.errors import BadInput
from mer_featurestore.interchange.sources import Items, Source, make_source, numbers, readable
from mer_featurestore.records import Level

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    with readable(str(path), "is not a Parquet file"):
        return parquet.ParquetFile(path)


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Return a flat table, column -> values; BadInput for columns that are lists or structures."""
    import pyarrow.types

    with readable(str(path)):
        table = open_parquet(path).read()
    nested = [f.name for f in table.schema if pyarrow.types.is_nested(f.type)]
    if nested:
        raise BadInput(
            f"{path}: column {nested[0]!r} is not flat", "write one column per number, e.g. p_<class>"
        )
    return {name: table.column(name).to_pylist() for name in table.column_names}


def from_parquet(path: Path, *, member: str | None = None, level: Level | None = None) -> Source:
    """Open a Parquet file with a `key` column and a column of vectors `[D]` or of rows `[T, D]`.

    Args:
        path: The file; read in batches.
        member: The column of features; None when only one column holds lists.
        level: `utt` or `frame`; None to tell by the first clip.

    Raises:
        BadInput: The file is not readable, has no `key` column, or no (or several) columns of lists.
    """
    import pyarrow.types

    schema = open_parquet(path).schema_arrow
    lists = [f.name for f in schema if pyarrow.types.is_nested(f.type)]
    column = member or (lists[0] if len(lists) == 1 else None)
    if "key" not in schema.names:
        raise BadInput(
            f"{path} has no column key (it has: {', '.join(schema.names)})", "rename the key column"
        )
    if column is None or column not in lists:
        raise BadInput(
            f"{path} has {len(lists)} columns of lists: {', '.join(lists) or 'none'}",
            "choose one with --member NAME" if lists else "one column must hold the features",
        )
    with readable(str(path)):
        keys = [str(key) for key in open_parquet(path).read(columns=["key"]).column("key").to_pylist()]

    def items(wanted: Container[str]) -> Items:
        with readable(str(path)):
            for batch in open_parquet(path).iter_batches(batch_size=256, columns=["key", column]):
                for key, values in zip(batch.column("key").to_pylist(), batch.column(column), strict=True):
                    if str(key) in wanted:
                        yield str(key), _to_array(values, f"{path}, clip {key}")

    facts = {"member": column}
    return make_source("parquet", path, keys, items, level=level, content=file_hash(path), facts=facts)


def _to_array(value: Any, where: str) -> "NDArray[Any] | BadInput":
    """Return the array of a (nested) list scalar; a list of lists must have rows of one length."""
    import pyarrow.compute as pc
    import pyarrow.types

    shape: list[int] = []
    values = value.values
    if values is None:
        return BadInput(f"{where}: there is no list", "fill the cell or leave the row out")
    shape.append(len(values))
    while pyarrow.types.is_nested(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist() or [0]
        if len(lengths) > 1 or lengths[0] is None:
            return BadInput(f"{where}: rows of different lengths", "every row must have the same length")
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count:
        return BadInput(f"{where}: {values.null_count} values are missing", "fill them or leave the row out")
    try:
        return numbers(values.to_numpy(zero_copy_only=False).reshape(shape), where)
    except BadInput as error:
        return error
