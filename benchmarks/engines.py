"""The rate of ResNet-50 at batch 32 on each engine for CPUs and at each precision, against a session of ONNX Runtime.

That session is the library's own: its threads share each layer. Those of bandlens share the batch.
All sessions are open at once and take turns on the same batch. The weights are random, and int8 is calibrated on 32
crops of photographs: neither changes the speed. What an engine cannot run here, such as bf16 on a processor without it,
is printed and left out.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

import _common as common
import numpy as np
import onnxruntime
from _common import BATCH, MODEL, Variant

from bandlens.core.errors import EngineError
from bandlens.core.records import Model
from bandlens.engine.backends.base import ENGINES, Session, open_session, variant_of
from bandlens.export.model_files import load_model
from bandlens.export.onnx.precisions import Calibration, make_onnx_file

COMPARED = ("onnxruntime", "openvino")
BASE = "onnxruntime fp32, layers shared"


def batch() -> np.ndarray:
    return np.ascontiguousarray(common.photographs(BATCH), np.float32) / np.float32(255)


def prepared(models: Path) -> Model:
    """ResNet-50 with its int8 graph."""
    common.resnet50(models)
    model = load_model(models, MODEL)
    if not (models / "int8" / f"{MODEL}.onnx").exists():
        make_onnx_file(model, "int8", Calibration("crops of photographs", "", batch()))
    return model


class LibrarySession:
    """A session of ONNX Runtime as its users open it."""

    def __init__(self, model: Model, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])

    def infer(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"images": images})[0]


def opened(model: Model, threads: int, stack: ExitStack) -> dict[str, Session | LibrarySession]:
    sessions: dict[str, Session | LibrarySession] = {BASE: LibrarySession(model, threads)}
    for engine in COMPARED:
        for precision in ENGINES[engine].precisions:
            try:
                session = open_session(variant_of(model, engine, precision), BATCH, threads)
            except EngineError as error:
                print(f"left out: {error}")
            else:
                sessions[f"{engine} {precision}"] = stack.enter_context(session)
    return sessions


def turn(session: Session | LibrarySession, images: np.ndarray) -> Variant:
    """Time a batch after one that does not count: a session may give up its memory while others have their turn."""

    def variant() -> float:
        session.infer(images)
        return common.timed(lambda: session.infer(images))()

    return variant


def main() -> None:
    options = common.arguments(__doc__, repeats=15, quick=2, threads=(2, "threads of a session"))
    with common.folder(options.keep) as scratch, ExitStack() as stack:
        sessions = opened(prepared(scratch / "models"), options.threads, stack)
        common.machine("numpy", "onnxruntime", "openvino", "nncf")
        print(f"{MODEL}, batch {BATCH}, {options.threads} threads")
        images = batch()
        seconds = common.in_turn({name: turn(session, images) for name, session in sessions.items()}, options.repeats)
    faster = {name: common.ratios(seconds[BASE], values) for name, values in seconds.items()}
    common.table(
        ["engine", "images/s", f"over {BASE}"],
        [[name, f"{BATCH / statistics.median(seconds[name]):.0f}", faster[name]] for name in seconds],
    )
    for name in (name for name in seconds if name != BASE):
        common.ratio(f"{name} over {BASE}", faster[name], "> 1")


if __name__ == "__main__":
    main()
