"""Files that hold many images: tar shards as WebDataset writes them, and Parquet tables."""

import tarfile
from collections.abc import Iterator
from typing import Any

from batch.items import Item, open_file_system


def list_tar(url: str, prefix: str, suffixes: tuple[str, ...]) -> Iterator[Item]:
    """Images of a tar file that is not compressed, in its order; only the headers are read.

    Raises:
        ValueError: the file is damaged, or no such tar file.
    """
    file_system, path = open_file_system(url)
    try:
        with file_system.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(suffixes):
                    name = prefix + member.name
                    yield Item(name=name, url=url, offset=member.offset_data, size=member.size)
                tar.members.clear()  # type: ignore[attr-defined]  # or all headers would be kept
    except tarfile.TarError as error:
        raise ValueError(f"{url} is damaged, compressed or no tar file: {error}") from error


def list_parquet(url: str, prefix: str) -> Iterator[Item]:
    """Images of a Parquet file, a row each, named by their row.

    Raises:
        ValueError: the file is damaged, or has no column of images.
    """
    import pyarrow
    import pyarrow.parquet

    file_system, path = open_file_system(url)
    with file_system.open(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{url} is damaged or no Parquet file: {error}") from error
        column = _find_column(url, table.schema_arrow)
        count = 0
        for group in range(table.num_row_groups):
            for row in range(table.metadata.row_group(group).num_rows):
                yield Item(name=f"{prefix}{count:06}", url=url, row_group=group, row=row, column=column)
                count += 1


def _find_column(url: str, schema: Any) -> str:
    """The first column of bytes, or of structs with a field `bytes`, as Hugging Face writes images."""
    import pyarrow

    for field in schema:
        is_struct = pyarrow.types.is_struct(field.type)
        if is_struct and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
        if pyarrow.types.is_binary(field.type) or pyarrow.types.is_large_binary(field.type):
            return str(field.name)
    raise ValueError(f"{url} has no column of images: bytes, or structs with a field `bytes`, but {schema.names}")
