"""A gate that was killed goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from gated import COUNT, ENGINES, WIDE, gated_study
from made_up_results import python
from polars.testing import assert_frame_equal
from small import ask, make_images, make_model, make_pictures, rows_of

from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study_precision

BATCH = 8
LOGGED = """
from pathlib import Path
def dim(images):
    with (Path(__file__).parent / "log").open("a") as log:
        log.write("." * len(images))
    return images * 0.9
"""
GATE = """
import sys
from pathlib import Path
from bandlens.app.study.gate import gate_study_precision
from bandlens.app.study.file import Study
gate_study_precision(Study.read(Path(sys.argv[1])), Path(sys.argv[2]), *sys.argv[3:], range_seconds=0)
"""


def test_killed_and_gated_again_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    make_images(tmp_path / "images.set", make_pictures(COUNT))
    for name, seed in (("one", 0), ("two", 2)):
        make_model(tmp_path / "models", name, seed=seed)
    (tmp_path / "dim.py").write_text(LOGGED)
    study = gated_study(tmp_path, "one", "two", batch=BATCH, probes="dim = {file = 'dim.py'}\n" + WIDE)
    whole, db, log = tmp_path / "whole.duckdb", tmp_path / "r.duckdb", tmp_path / "log"
    expected = gate_study_precision(Study.read(study), whole, *ENGINES).rows
    log.unlink()
    os.mkfifo(log)  # whoever opens it to write waits until somebody opens it to read
    with subprocess.Popen(python(GATE, study, db, *ENGINES)) as process:
        perturbed = 0
        # The probe is first tried on 5 images. When the fourth batch is asked for, the first is committed.
        while perturbed < 5 + 3 * BATCH:
            perturbed += len(log.read_text())
        process.kill()
    os.close(os.open(log, os.O_RDONLY | os.O_NONBLOCK))  # the process of the probe goes on, and ends
    log.unlink()
    total, stored = COUNT * 2 * 2 * 2, ask(db, "SELECT count(*) FROM prediction")[0][0]
    result = gate_study_precision(Study.read(study), db, *ENGINES)
    assert 0 < stored < total
    assert result.run_summary["predictions"] == total - stored
    assert_frame_equal(rows_of(db), rows_of(whole))
    assert_frame_equal(result.rows.drop("cell"), expected.drop("cell"))
