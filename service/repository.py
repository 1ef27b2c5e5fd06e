"""The model repository: a folder of artifacts, `NAME/VERSION/artifact.json`."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service import artifact
from service.artifact import ArtifactMetadata
from service.errors import ArtifactError, NotFoundError

logger = logging.getLogger("knet.models")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[0-9]+")


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """An artifact found in the repository, its files checked; `digest` tells it from what was there before."""

    metadata: ArtifactMetadata
    folder: Path
    digest: str


def scan(folder: Path) -> list[StoredArtifact]:
    """All artifacts of a repository, by name, then by version; raises ArtifactError if there is none or one is bad."""
    found = [_read(path) for path in _folders(folder)]
    for path in sorted(folder.glob("*/*/")):
        if _VERSION.fullmatch(path.name) and not (path / artifact.FILE_NAME).is_file():
            logger.warning("%s is passed over: it has no %s", path, artifact.FILE_NAME)
    if not found:
        raise ArtifactError(f"no model in {folder}: expected NAME/VERSION/{artifact.FILE_NAME} in it")
    return sorted(found, key=lambda stored: (stored.metadata.name, int(stored.metadata.version)))


def list_versions(folder: Path) -> list[tuple[str, str]]:
    """Name and version of every artifact there, by its folders alone: nothing is read."""
    return [(path.parent.name, path.name) for path in _folders(folder)]


def read(folder: Path, name: str, version: str) -> StoredArtifact:
    """One artifact of a repository.

    Raises:
        NotFoundError: there is none.
        ArtifactError: it is damaged.
    """
    path = folder / name / version
    # The names come from outside: nothing but a folder of the repository may be meant.
    known = _NAME.fullmatch(name) and _VERSION.fullmatch(version)
    if not known or not (path / artifact.FILE_NAME).is_file():
        raise NotFoundError(f"the repository has no {name}/{version}")
    return _read(path)


def _folders(folder: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(folder.glob(f"*/*/{artifact.FILE_NAME}")))


def _read(folder: Path) -> StoredArtifact:
    metadata = artifact.load(folder)
    named = (folder.parent.name, folder.name)
    if named != (metadata.name, metadata.version):
        raise ArtifactError(f"{folder} holds {metadata.name}/{metadata.version}; the folders must have these names")
    artifact.verify_files(folder, metadata)
    return StoredArtifact(metadata=metadata, folder=folder, digest=artifact.file_sha256(folder / artifact.FILE_NAME))
