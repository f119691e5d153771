"""Store TensorRT plans: MODELS/plans/NAME.PRECISION.b256.KEY.plan, with a .json description and TensorRT's .log.

A plan runs only on the GPU model and with the TensorRT version that built it, so both are part of its key.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from ...core.errors import ExportError, writing
from ...core.files import write_bytes
from ...core.records import digest_of
from ...core.untrusted import parse_json, read_text
from ..model_files import OnnxFile, read_onnx_file, read_verified
from ..onnx.parity import Parity
from .plan_builder import TensorRT, build_trt_plan

TRT_PLAN_VERSION = 6
"""Version of the build procedure. Increased when the same ONNX file is built differently."""

_log = logging.getLogger("bandlens")


@dataclass(frozen=True, slots=True)
class Target:
    """The library, GPU and batch size for which a TensorRT plan is built."""

    library: str
    """Name and version, for example `tensorrt 10.16.1.11`."""
    gpu: str
    """Name and compute capability, for example `NVIDIA H100 80GB HBM3 (9.0)`."""
    batch: int
    settings: str = ""
    """Space-separated keys of `plan_builder.SETTINGS`."""


@dataclass(frozen=True, slots=True)
class TrtPlan:
    """A TensorRT plan whose content has been verified against its SHA-256 digest."""

    path: Path
    sha256: str
    content: bytes = field(repr=False)
    compared: bool
    """Whether its logits have been compared with those of ONNX Runtime."""


def has_trt_plan(onnx_file: OnnxFile, target: Target) -> bool:
    """Return whether a TensorRT plan of the ONNX file exists for the target."""
    return _path(onnx_file, target).with_suffix(".json").is_file()


def ensure_trt_plan(trt: TensorRT, onnx_file: OnnxFile, target: Target) -> TrtPlan:
    """Return the ONNX file's TensorRT plan for the target. Build it if necessary, and log the reason.

    Args:
        trt: The TensorRT module.
        onnx_file: The ONNX file.
        target: Describes `trt` and the GPU of this machine.

    Raises:
        ExportError: If TensorRT cannot build the plan.
    """
    trt_plan = _find(onnx_file, target)
    if isinstance(trt_plan, TrtPlan):
        return trt_plan
    path = _path(onnx_file, target)
    with writing(path, "make its folder writable, or choose another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock  # installed by the extra `gpu`

        # Only one process builds at a time. Concurrent builds would measure kernels on a busy GPU, produce different
        # plans, and overwrite each other's timing cache. Taking the lock also shows before minutes of work whether the
        # folder is writable.
        with FileLock(path.parent / ".building"):
            trt_plan = _find(onnx_file, target)  # another process may have built it while this one waited for the lock
            return trt_plan if isinstance(trt_plan, TrtPlan) else _make(trt, onnx_file, target, trt_plan)


def _make(trt: TensorRT, onnx_file: OnnxFile, target: Target, reason: str) -> TrtPlan:
    """Build the plan, and write it with its description and log. If the build fails with settings, build without them.

    `reason` is logged.
    """
    _log.warning("building a TensorRT plan: %s", reason)
    path, lines, content = _path(onnx_file, target), list[str](), onnx_for_tensorrt(onnx_file)
    log = path.with_suffix(".log")
    build = partial(build_trt_plan, trt, content, target.batch, timing_cache=path.parent / "timing.cache", lines=lines)
    settings, trt_plan, start = target.settings.split(), None, time.monotonic()
    try:
        if settings:
            try:
                trt_plan = build(settings=settings)
            except ExportError as error:
                _log.warning("%s: it is built without %s: %s", onnx_file.name, " and ".join(settings), error)
        trt_plan = trt_plan or build()
    except ExportError as error:
        raise ExportError(f"{onnx_file.name}: {error}; all that TensorRT said is in {log}") from error
    finally:
        write_bytes(log, "\n".join(lines).encode())
    sha256 = hashlib.sha256(trt_plan).hexdigest()
    result = {"sha256": sha256, "bytes": len(trt_plan), "seconds": round(time.monotonic() - start, 1)}
    write_bytes(path, trt_plan)
    # The description is written last, because its existence marks the plan as complete.
    write_bytes(path.with_suffix(".json"), json.dumps(_identity(onnx_file, target) | result, indent=1).encode())
    return TrtPlan(path, sha256, trt_plan, compared=False)


def record_parity(trt_plan: TrtPlan, parity: Parity) -> None:
    """Record the comparison with ONNX Runtime in the plan's description. Ignored if the folder is read-only."""
    file = trt_plan.path.with_suffix(".json")
    with suppress(OSError, ValueError):
        write_bytes(file, json.dumps(parse_json(read_text(file)) | {"parity": asdict(parity)}, indent=1).encode())


def onnx_for_tensorrt(onnx_file: OnnxFile) -> bytes:
    """Load the verified ONNX file, and convert it to the form that TensorRT accepts."""
    content = read_onnx_file(onnx_file)
    if onnx_file.precision == "int8":
        from ..onnx.int8 import symmetric_activations

        return symmetric_activations(content)
    if onnx_file.precision == "bf16":
        from ..onnx.fp16 import to_bf16

        return to_bf16(content)
    return content


def _identity(onnx_file: OnnxFile, target: Target) -> dict[str, Any]:
    """Return the fields whose digest is the key of a TensorRT plan."""
    identity = {"name": onnx_file.name, "precision": onnx_file.precision, **asdict(target)}
    return identity | {"trt_plan_version": TRT_PLAN_VERSION, "built_from": onnx_file.sha256}


def _path(onnx_file: OnnxFile, target: Target) -> Path:
    key = digest_of(_identity(onnx_file, target))[:8]
    return onnx_file.models / "plans" / f"{onnx_file.name}.{onnx_file.precision}.b{target.batch}.{key}.plan"


def _find(onnx_file: OnnxFile, target: Target) -> TrtPlan | str:
    """Return the TensorRT plan, or the reason why there is none."""
    path = _path(onnx_file, target)
    file = path.with_suffix(".json")
    if not file.is_file():
        place = f"of {target.library} for {target.gpu} at batch {target.batch}"
        return f"{onnx_file.name} has no {onnx_file.precision} plan {place}"
    try:
        description = parse_json(read_text(file))
        sha256 = str(description["sha256"])
        return TrtPlan(path, sha256, read_verified(path, sha256, "it is damaged"), "parity" in description)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file} is damaged ({error})"
    except ExportError as error:
        return str(error)


def is_trt_plan_of(path: Path, batch: int, settings: str) -> bool:
    """Return whether a file belongs to a plan with that batch size and these settings."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        description = parse_json(read_text(path.with_suffix(".json")))
        return bool((description["batch"], description["settings"]) == (batch, settings))
    return False


def trt_plan_batches(onnx_file: OnnxFile) -> set[int]:
    """Return the batch sizes of the ONNX file's TensorRT plans, for any GPU. Damaged descriptions are ignored."""
    batches = set[int]()
    for file in (onnx_file.models / "plans").glob(f"{escape(onnx_file.name)}.{onnx_file.precision}.b*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            plan = parse_json(read_text(file))
            built_from = plan["name"], plan["precision"], plan["built_from"]
            is_match = built_from == (onnx_file.name, onnx_file.precision, onnx_file.sha256)
            if is_match and isinstance(plan["batch"], int):
                batches.add(plan["batch"])
    return batches
