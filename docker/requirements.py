"""Print the project's dependencies and those of the extras named, a line each.

An image installs them before the code comes in: their layer, which is large, stays the same while only code changes.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
requirements = project["dependencies"] + [requirement for extra in sys.argv[1:] for requirement in extras[extra]]
sys.stdout.writelines(f"{requirement}\n" for requirement in requirements)
