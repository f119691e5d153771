"""45 minutes with an NVIDIA GPU show whether its results are right, how fast it is, and what happens when it fails.

Without --stage, every stage that has not ended well yet runs in a process of its own, which a limit ends:

`doctor`       which engines are ready.
`kernels`      the CUDA kernels and all 52 conditions on CuPy against NumPy.
`fault`        a run whose card is lost by an illegal access: one line.
`memory`       a batch for which there is no room: one line, with a batch that fits.
`export`       a ResNet-50 of random weights, in every precision of the plans.
`plans`        plans built without and with timings, and one plan opened 48 times.
`rates`        sessions on photographs at two batches, beside trtexec where it is installed.
`tensorrt`, `torch`
               runs of 1 and 48 networks beside the bare loop on the same photographs, with images on the card and in
               the host's memory.
`settings`     plans with level 5 and tiling, without a limit: only where --stage names it.

`doctor`, `kernels`, `fault`, `memory` and `torch` need torch, CuPy and NumPy alone, and no installed bandlens; others
`pip install '.[gpu]'`. The folder of --out keeps figures, logs and plans; page.html and page.json are its summary.
--pretend runs all of it on the pretended card of the tests, at sizes that say nothing: does it work?
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu_first.stages import main  # noqa: E402 - the folder around it has just been put on the path

if __name__ == "__main__":
    main(__doc__)
