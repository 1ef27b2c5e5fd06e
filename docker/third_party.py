"""Write the table of THIRD_PARTY.md: the packages that the server's image ships, from their own metadata.

    python docker/third_party.py

Run it where the project is installed with the extras `serve` and `tracing`, on Linux: `make notices`.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "THIRD_PARTY.md"
BEGIN, END = "<!-- packages: begin -->", "<!-- packages: end -->"
EXTRAS = ("serve", "tracing")

# Licences that ask for no more than notices, and the MPL, whose terms stay with its own files.
ACCEPTED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0"),
    "Zlib",
}
# What packages say that do not speak SPDX.
_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "OSI Approved :: Apache Software License": "Apache-2.0",
}


def shipped() -> list[metadata.Distribution]:
    """The project's dependencies with their own, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"] + [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    wanted = [Requirement(text) for text in texts]
    found: dict[str, metadata.Distribution] = {}
    seen: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = metadata.distribution(requirement.name)
        found[canonicalize_name(requirement.name)] = distribution
        for text in distribution.requires or []:
            other = Requirement(text)
            extras = requirement.extras or {""}
            if other.marker is None or any(other.marker.evaluate({"extra": extra}) for extra in extras):
                other.marker = None
                wanted.append(other)
    return [found[name] for name in sorted(found)]


def licence_of(distribution: metadata.Distribution) -> str:
    """SPDX expression of a package's licence.

    Raises:
        ValueError: it has none, or one that is not accepted.
    """
    about = distribution.metadata
    classifiers = [one.rpartition(" :: ")[2] for one in about.get_all("Classifier", []) if one.startswith("License ::")]
    said = about.get("License-Expression") or about.get("License") or " AND ".join(classifiers)
    licence = _SPDX.get(said, said)
    parts = set(re.split(r"[\s()]+", licence)) - {"AND", "OR", ""}
    if not parts or parts - ACCEPTED:
        raise ValueError(f"{about['Name']} has the licence {said!r}; accepted: {', '.join(sorted(ACCEPTED))}")
    return licence


def table() -> str:
    """A line for each package."""
    lines = ["| package | version | licence |", "| --- | --- | --- |"]
    lines += [f"| {canonicalize_name(one.metadata['Name'])} | {one.version} | {licence_of(one)} |" for one in shipped()]
    return "\n".join(lines)


def with_table(document: str) -> str:
    """The document with the table between its two comments."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


if __name__ == "__main__":
    FILE.write_text(with_table(FILE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote {FILE.name}\n")
