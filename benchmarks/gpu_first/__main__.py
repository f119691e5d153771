"""An hour with an NVIDIA GPU shows whether its results are right, how fast it is, and what happens when it fails.

Without --stage, every stage that has not ended well yet runs in a process of its own, which a limit ends:

`doctor`       which engines are ready.
`kernels`      the CUDA kernels and all 52 conditions on CuPy against NumPy.
`speed`        the time of the perturbations of a batch, of `reduce_logits` and of an event between two streams.
`sanitizer`    `kernels` under compute-sanitizer.
`fault`        a run whose card is lost by an illegal access: one line.
`memory`       a batch for which there is no room: one line, with a batch that fits.
`export`       a ResNet-50 of random weights, in every precision of the plans.
`plans`        plans built without and with timings and one plan opened 48 times.
`plan`         `bandlens plan` twice.
`settings`     sessions of plans built without one of the builder's settings.
`rates`        sessions at every batch, beside launches of their CUDA graph, and beside trtexec.
`share`        the share of the rate at which the card multiplies matrices.
`torch`, `tensorrt`, `onnxruntime`
               runs of 1 and 48 networks beside the bare loop, with images on the card and in the host's memory.

`doctor`, `kernels`, `speed`, `fault`, `memory`, `share` and `torch` need torch, CuPy and NumPy alone, and no installed
bandlens; the others `pip install '.[gpu]'`. The folder of --out keeps figures, logs and plans; page.html and page.json
are its summary. --pretend runs what a CPU can do, in NumPy and torch, at sizes that say nothing: does it work?
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from gpu_first.stages import main  # noqa: E402 - the folder around it has just been put on the path

if __name__ == "__main__":
    main(__doc__)
