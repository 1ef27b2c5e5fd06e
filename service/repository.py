"""The model repository: a folder of artifacts, `NAME/VERSION/artifact.json`."""

from dataclasses import dataclass
from pathlib import Path

from service import artifact
from service.artifact import ArtifactMetadata, Variant
from service.errors import ArtifactError
from service.variants import choose_variant


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """An artifact found in the repository, its files checked; `variant` is what this server runs of it."""

    metadata: ArtifactMetadata
    folder: Path
    variant: Variant


def scan(folder: Path) -> list[StoredArtifact]:
    """All artifacts of a repository, by name, then by version; raises ArtifactError if there is none or one is bad."""
    paths = sorted(folder.glob(f"*/*/{artifact.FILE_NAME}"))
    if not paths:
        raise ArtifactError(f"no model in {folder}: expected NAME/VERSION/{artifact.FILE_NAME} in it")
    found = [_read(path.parent) for path in paths]
    return sorted(found, key=lambda stored: (stored.metadata.name, int(stored.metadata.version)))


def _read(folder: Path) -> StoredArtifact:
    metadata = artifact.load(folder)
    named = (folder.parent.name, folder.name)
    if named != (metadata.name, metadata.version):
        raise ArtifactError(f"{folder} holds {metadata.name}/{metadata.version}; the folders must have these names")
    artifact.verify_files(folder, metadata)
    return StoredArtifact(metadata=metadata, folder=folder, variant=choose_variant(metadata))
