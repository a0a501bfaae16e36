"""Columns of images in Arrow and Parquet files, row by row."""

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdistill.runtime.errors import DataError, first_line

if TYPE_CHECKING:  # slow to import, and needed by one source only
    import pyarrow

_KEPT = 4  # groups of rows in memory
_lock = threading.Lock()


class Cell(NamedTuple):
    """An image in a table, as Hugging Face stores it."""

    content: bytes
    """Content of the file; empty where the table has its path only, or nothing."""
    path: str
    """Path of the file that it was made from; empty where the table has none."""


class Table(NamedTuple):
    """A file with rows."""

    path: Path
    rows: int
    image_columns: Sequence[str]
    """Names of the columns that hold images."""
    columns: Sequence[str]
    """Names of all columns."""


def describe(path: Path) -> Table:
    """Returns what is in a file.

    Args:
      path: A file `.arrow` or `.parquet`.

    Raises:
      DataError: The file cannot be read (`damaged-table`).
    """
    import pyarrow

    schema, rows = _guarded(path, _schema)
    images = [
        field.name
        for field in schema
        if pyarrow.types.is_struct(field.type)
        and {field.type.field(i).name for i in range(field.type.num_fields)} >= {"bytes", "path"}
    ]
    return Table(path, rows, images, schema.names)


def cell(path: Path, column: str, row: int) -> Cell:
    """Returns an image. Several threads call this function.

    Args:
      path: A file `.arrow` or `.parquet`.
      column: A column of images.
      row: The row, from 0.

    Raises:
      DataError: The file cannot be read (`damaged-table`).
    """

    def read(path: Path) -> Any:
        if path.suffix == ".arrow":
            return _arrow(path, _state(path)).column(column)[row].as_py()
        first, group = 0, 0
        counts = _group_sizes(path, _state(path))
        while row >= first + counts[group]:
            first, group = first + counts[group], group + 1
        with _lock:  # the other threads want the same group
            found = _group(path, _state(path), column, group)
        return found[row - first].as_py()

    value = _guarded(path, read) or {}
    return Cell(value.get("bytes") or b"", str(value.get("path") or ""))


def names(path: Path, column: str, rows: int) -> list[str]:
    """Returns the paths that the images of a column were made from; empty where there are none.

    Args:
      path: A file `.arrow` or `.parquet`.
      column: A column of images.
      rows: Number of rows.

    Raises:
      DataError: The file cannot be read (`damaged-table`).
    """
    import pyarrow.compute
    import pyarrow.parquet

    def read(path: Path) -> list[str]:
        if path.suffix == ".arrow":
            table = _arrow(path, _state(path))
        else:
            table = pyarrow.parquet.ParquetFile(path).read([f"{column}.path"])
        found = pyarrow.compute.struct_field(table.column(column), "path")
        return [str(name or "") for name in found.to_pylist()]

    return (_guarded(path, read) + [""] * rows)[:rows]


def _schema(path: Path) -> tuple["pyarrow.Schema", int]:
    import pyarrow.parquet

    if path.suffix == ".arrow":
        table = _arrow(path, _state(path))
        return table.schema, table.num_rows
    file = pyarrow.parquet.ParquetFile(path)
    return file.schema_arrow, file.metadata.num_rows


def _state(path: Path) -> tuple[int, int]:
    """Returns size and modification time of a file: what was kept of another state is not used."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(_KEPT)
def _arrow(path: Path, state: tuple[int, int]) -> "pyarrow.Table":
    """Returns a table whose pages are read when they are needed."""
    import pyarrow

    mapped = pyarrow.memory_map(str(path))
    try:
        table = pyarrow.ipc.open_stream(mapped).read_all()
    except pyarrow.ArrowInvalid:
        table = pyarrow.ipc.open_file(mapped).read_all()
    table.validate(full=True)  # otherwise Arrow trusts the offsets in the file
    return table


@functools.lru_cache(_KEPT)
def _group_sizes(path: Path, state: tuple[int, int]) -> list[int]:
    import pyarrow.parquet

    metadata = pyarrow.parquet.ParquetFile(path).metadata
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


@functools.lru_cache(_KEPT)
def _group(path: Path, state: tuple[int, int], column: str, group: int) -> "pyarrow.ChunkedArray":
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read_row_group(group, columns=[column]).column(column)


def _guarded(path: Path, read: Any) -> Any:
    import pyarrow

    try:
        return read(path)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: the table cannot be read: {first_line(error)}", code="damaged-table"
        ) from None
