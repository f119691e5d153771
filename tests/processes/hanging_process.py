"""A worker whose card hangs once, in place of `bandlens.engine.processes`: a program."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from bandlens.engine import run
from bandlens.engine.backends.onnxruntime import OnnxRuntimeSession
from bandlens.engine.processes import main

infer, calls = OnnxRuntimeSession.infer, list[int]()


def hangs(session: Any, images: Any, rows: slice) -> Any:
    calls.append(1)
    if len(calls) == 3:
        try:
            Path(os.environ["HUNG"]).touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            threading.Event().wait()  # as a driver that does not come back
    return infer(session, images, rows)


if __name__ == "__main__":
    OnnxRuntimeSession.infer = hangs  # type: ignore[method-assign]
    run.HANG_SECONDS, run.runs_on_gpu = float(os.environ["HANG_SECONDS"]), lambda _: True
    main()
