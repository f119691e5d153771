"""A merge on a disk that loses power; runs and commands on it are struck by disks.py."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

from disks import (
    compile_disk,
    disk_environment,
    lose_power,
    read_log,
)
from made_up_results import python
from waiting import LIMIT_SECONDS

MERGE = """
import sys
from pathlib import Path
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
root = Path(sys.argv[1])
paths = [root / "a.duckdb", root / "b.duckdb"]
for path in paths:
    with open_store(path):
        pass
merge(paths, root / "out.duckdb")
"""


def test_a_merged_database_has_its_name_after_a_loss_of_power(tmp_path: Path) -> None:
    library, root, log = compile_disk(tmp_path), tmp_path / "root", tmp_path / "log"
    root.mkdir()
    subprocess.run(python(MERGE, root), env=disk_environment(library, root, LOG=log), check=True, timeout=LIMIT_SECONDS)
    survivors = lose_power(read_log(log), Random(0), survival=0)
    assert survivors["/out.duckdb"] == (root / "out.duckdb").read_bytes()
