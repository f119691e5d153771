"""Two databases of made-up predictions made one: seconds, peak memory and bytes, with a tenth of the cells in both.

The second database is the first one's continuation: its cells are of other checkpoints, but for those of the last tenth
of the first one's checkpoints, which it has too. All are deleted.
"""

from __future__ import annotations

import sys

from _common import arguments, folder, machine, ratio, run_program, table
from store import CONDITIONS, fill

MERGE = """
import sys
from pathlib import Path
from bandlens.analysis.database.merge import merge
merged = merge([Path(name) for name in sys.argv[2:]], Path(sys.argv[1])).raise_contradictions()
print(merged.predictions, merged.shared)
"""


def main() -> None:
    options = arguments(
        __doc__, repeats=1, quick=1, images=(50_000, "images of the set"), checkpoints=(40, "in both databases")
    )
    count, checkpoints = (500, 10) if options.quick else (options.images, options.checkpoints)
    half, shared = checkpoints // 2, max(1, checkpoints // 20)
    machine("duckdb", "numpy", "pyarrow")
    with folder(options.keep) as scratch:
        paths = [scratch / "a.duckdb", scratch / "b.duckdb"]
        out = scratch / "merged.duckdb"
        try:
            fill(paths[0], "a", count, range(half), 2_500)
            fill(paths[1], "b", count, range(half - shared, checkpoints), 2_500)
            sizes = [path.stat().st_size for path in paths]
            output, usage = run_program(sys.executable, "-P", "-c", MERGE, out, *paths)
            predictions, shared_cells = map(int, output.split())
            if (predictions, shared_cells) != (checkpoints * CONDITIONS * count, shared * CONDITIONS):
                raise SystemExit(f"the merged database has {predictions:,} predictions, {shared_cells} cells of both")
            sizes.append(out.stat().st_size)
        finally:
            for path in (*paths, out):
                path.unlink(missing_ok=True)
    scale = predictions / 1e8
    table(
        ["what", "figure", "goal"],
        [
            ["predictions, millions", f"{predictions / 1e6:.1f}", "-"],
            ["cells in both", f"{shared_cells:,}", "-"],
            ["seconds", f"{usage.seconds:.1f}", "-"],
            ["largest resident set, GB", f"{usage.resident / 1e3:.2f}", "<= 4"],
            ["files merged, GB", " and ".join(f"{size / 1e9:.3f}" for size in sizes[:2]), "-"],
            ["merged file, GB", f"{sizes[2] / 1e9:.3f}", "-"],
        ],
    )
    ratio("seconds over 10 minutes for 10^8 predictions", [usage.seconds / (600 * scale)], "<= 1")


if __name__ == "__main__":
    main()
