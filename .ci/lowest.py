"""Print, as pip's constraints, the oldest version that pyproject.toml allows of each package in some extras."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements = [*project["dependencies"]]
for extra in sys.argv[1:]:
    requirements += project["optional-dependencies"][extra]
for requirement in requirements:
    name, version = re.match(r"([\w-]+)[^>]*>=([\w.]+)", requirement).groups()
    print(f"{name}=={version}")
