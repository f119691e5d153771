"""A worker on a pretended card, in place of `bandlens.engine.processes`: a program.

The card of the number LOST is lost after a few batches, before others begin, and can be used by no later process.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import pytest
from pretend_cupy import illegal, kernel_launcher
from pretend_gpu import pretend_gpu

from bandlens.engine.backends import tensorrt as tensorrt_session
from bandlens.engine.device.nvidia import Problem
from bandlens.engine.processes import main

CARD = os.environ["CUDA_VISIBLE_DEVICES"]
BORN_WITH = Path("/proc/self/environ").read_bytes().split(b"\0")
"""The environment that the process began with, before it imported anything."""


def pretend(folder: Path) -> None:
    assert f"CUDA_VISIBLE_DEVICES={CARD}".encode() in BORN_WITH
    with (folder / "cards").open("a") as cards:
        cards.write(f"{CARD}\n")
    patch, marker = pytest.MonkeyPatch(), folder / f"gone.{CARD}"
    xp = pretend_gpu(patch, kernel_launcher(ctypes.CDLL(str(folder / "kernels.so"))), int(CARD))
    if marker.exists():
        patch.setattr(tensorrt_session, "gpus", lambda: Problem("the card has fallen off the bus"))
    if lost_card := os.environ.get("LOST"):
        infer, batches = tensorrt_session.TensorRTSession.infer, list[int]()

        def fails(session: Any, images: Any, rows: slice) -> Any:
            batches.append(1)
            if lost_card == CARD and len(batches) == 5:
                marker.touch()
                xp.card.ask(illegal)
            while lost_card != CARD and not (folder / f"gone.{lost_card}").exists():
                time.sleep(0.01)
            return infer(session, images, rows)

        patch.setattr(tensorrt_session.TensorRTSession, "infer", fails)


if __name__ == "__main__":
    pretend(Path(os.environ["CARD_FOLDER"]))
    main()
