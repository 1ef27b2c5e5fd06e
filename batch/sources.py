"""Where a job's images come from: a folder, a glob, a list, a COCO file, tar shards or Parquet, here or in a cloud.

All of it goes through fsspec: `s3://bucket/folder` works where s3fs is installed, `gs://` needs gcsfs, `az://` adlfs.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any

from batch.items import Item, open_file_system
from batch.shards import list_parquet, list_tar

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
_LEGAL = (
    "a folder, a glob in quotes, a list of files (.txt), a COCO file (.json), tar shards (.tar) or Parquet (.parquet)"
)
_MAX_NAME_BYTES = 240  # of a file or folder: systems take 255, and outputs add to it while they are written
_OUTPUT_AS_FOLDER = re.compile(r"\.(?:png|tif|parquet)(?=/)")


def list_items(source: str, image_folder: str | None = None) -> Iterator[Item]:
    """The images of `source`, always in the same order.

    Args:
        source: path or URL.
        image_folder: where the files of a list or a COCO file are; default: beside it.

    Raises:
        ValueError: there is no image, two would have outputs of the same name, or a name is none for a file.
    """
    stems: set[str] = set()
    folders: set[str] = set()  # whose names an output of the stem without their suffix would have
    for number, item in enumerate(_list(source, image_folder), start=1):
        item = replace(item, id=number if item.id is None else item.id, name=_clean(item.name))
        _check_name(item)
        stem = item.stem
        above = {stem[: match.start()] for match in _OUTPUT_AS_FOLDER.finditer(stem)}
        if met := ({stem} & folders) | ({stem, *above} & stems):
            raise ValueError(f"two images would have outputs named {min(met)}: segment them in jobs of their own")
        stems.add(stem)
        folders |= above
        yield item
    if not stems:
        raise ValueError(f"no image in {source}; legal: {_LEGAL}, images being {', '.join(IMAGE_SUFFIXES)}")


def _list(source: str, image_folder: str | None) -> Iterator[Item]:
    file_system, path = open_file_system(source)
    if file_system.isdir(path):
        files, root = sorted(file_system.find(path)), path
    elif file_system.isfile(path):
        if path.endswith(".json"):
            yield from _list_coco(source, image_folder)
            return
        if path.endswith(".txt"):
            yield from _list_lines(source, image_folder)
            return
        files, root = [path], _parent(path)
    elif has_magic(path):
        files, root = sorted(file_system.glob(path)), _parent(path[: _first_magic(path)] + "x")
    else:
        raise ValueError(f"{source} does not exist; legal: {_LEGAL}")
    shards = sum(file.endswith((".tar", ".parquet")) for file in files)
    for file in files:
        url, name = file_system.unstrip_protocol(file), file[len(root) :]
        yield from _open(url, name, prefix=f"{PurePosixPath(name).with_suffix('')}/" if shards > 1 else "")


def _open(url: str, name: str, *, prefix: str) -> Iterator[Item]:
    """Images in one file; `prefix` keeps the images of several shards apart."""
    if url.endswith(".tar"):
        yield from list_tar(url, prefix, IMAGE_SUFFIXES)
    elif url.endswith(".parquet"):
        yield from list_parquet(url, prefix or f"{PurePosixPath(name).stem}/")
    elif url.lower().endswith(IMAGE_SUFFIXES):
        yield Item(name=name, url=url)


def _list_coco(source: str, image_folder: str | None) -> Iterator[Item]:
    """Images of a COCO file, with their ids, in its order."""
    file_system, path = open_file_system(source)
    with file_system.open(path) as file:
        content = json.load(file)
    images: Any = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise ValueError(f"{source} has no list `images`, which COCO files have")
    folder = image_folder or _parent(source)
    ids: set[int] = set()
    for number, image in enumerate(images):
        if not (isinstance(image.get("id"), int) and isinstance(image.get("file_name"), str)):
            raise ValueError(f"{source}: images[{number}] needs an `id`, a whole number, and a `file_name`")
        if image["id"] in ids:
            raise ValueError(f"{source}: images[{number}] has the id {image['id']}, as another image has")
        ids.add(image["id"])
        item = Item(id=image["id"], name=image["file_name"], url=_join(folder, image["file_name"]))
        if not number:
            _check_first(item.url, folder)
        yield item


def _list_lines(source: str, image_folder: str | None) -> Iterator[Item]:
    """Images of a text file, a path or URL a line, relative ones to `image_folder` or the file's own folder."""
    file_system, path = open_file_system(source)
    folder = image_folder or _parent(source)
    with file_system.open(path, "rt", encoding="utf-8-sig") as file:
        for line in file:
            if name := line.strip():
                yield Item(name=name.split("://")[-1], url=_join(folder, name))


def _check_first(url: str, folder: str) -> None:
    file_system, path = open_file_system(url)
    if not file_system.exists(path):
        raise ValueError(f"{url} does not exist; name the folder of the images, if it is not {folder}: --image-folder")


def _check_name(item: Item) -> None:
    """Raise ValueError for a name of which no output's can be made, or a path that cannot be written down."""
    try:
        encoded = item.name.encode()
        item.url.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{item.name!r} is not UTF-8: rename it") from error
    if b"\0" in encoded or max(map(len, encoded.split(b"/"))) > _MAX_NAME_BYTES:
        raise ValueError(f"{item.name!r} is no name for a file: at most {_MAX_NAME_BYTES} bytes each, and no zeros")


def _clean(name: str) -> str:
    """A name that stays inside of the output's folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "image"


def _join(folder: str, name: str) -> str:
    return name if "://" in name or name.startswith("/") else f"{folder.rstrip('/')}/{name}"


def _parent(path: str) -> str:
    """Folder of a path or URL; the working one of a bare name."""
    head, slash, _ = path.rpartition("/")
    return head if slash else "."


def _first_magic(path: str) -> int:
    return min(path.index(letter) for letter in "*?[" if letter in path)
