"""One image of a job: its name, and where its bytes are."""

import threading
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

# What is to be installed for URLs of each kind.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "adl": "az"}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image; plain data, so that it can be written down and sent to other machines.

    `id`: None until images are numbered. `name`: relative path, of which the names of its outputs are made. `url`: of
    a file that fsspec opens: the image itself, a tar file with the image at `offset`, `size` bytes long, or a Parquet
    file with the image in `column` of the row `row` of `row_group`.
    """

    id: int | None = None
    name: str
    url: str
    offset: int | None = None
    size: int | None = None
    row_group: int | None = None
    row: int | None = None
    column: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields, without those that it has not."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def stem(self) -> str:
        """Its name without the suffix: what its outputs are called."""
        return str(PurePosixPath(self.name).with_suffix(""))


def open_file_system(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path on it; raises ValueError for one that is not known."""
    try:
        file_system, path = url_to_fs(url)
    except ImportError as error:  # s3fs, gcsfs and adlfs are installed by those who need them
        extra = _EXTRAS.get(url.split("://")[0])
        raise ValueError(f"{url}: " + (f"this needs: pip install '.[{extra}]'" if extra else str(error))) from error
    return file_system, path


def read(item: Item) -> bytes:
    """The bytes of the image's file; raises whatever the file system does, and ValueError for an empty cell."""
    if item.row_group is not None:
        return _read_cell(item)
    file_system, path = open_file_system(item.url)
    if item.offset is None or item.size is None:
        return bytes(file_system.cat_file(path))
    return bytes(file_system.cat_file(path, start=item.offset, end=item.offset + item.size))


def _read_cell(item: Item) -> bytes:
    with _lock:  # or several threads would load the same row group
        cells = _load_row_group(item.url, item.row_group, item.column)
    cell = cells[item.row].as_py()
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if data is None:
        raise ValueError(f"no bytes in column {item.column}")
    return bytes(data)


@lru_cache(maxsize=2)
def _load_row_group(url: str, row_group: int, column: str) -> Any:
    """Images lie row after row, so that a row group is loaded once, and another may have been begun."""
    import pyarrow.parquet

    file_system, path = open_file_system(url)
    with file_system.open(path) as file:
        return pyarrow.parquet.ParquetFile(file).read_row_group(row_group, columns=[column]).column(0)
